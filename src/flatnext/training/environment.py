"""What a figure needs beside it to be believed: versions, machine, and numbers of images."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flatnext.config import differences
from flatnext.device import machine
from flatnext.models import parameter_count
from flatnext.ops import library
from flatnext.runs.records import Environment, Session
from flatnext.training.options import Options
from flatnext.training.run_state import RunState
from flatnext.versions import commit, version_of


def environment(run: RunState, options: Options, changed: Mapping[str, Any]) -> Environment:
    """Return the environment of a run, with the session that starts now, which `changed` some of its settings."""
    facts, partition = vars(machine(run.device)), run.partition
    session = Session(
        **facts,
        command=options.command or shlex.join(sys.orig_argv),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        from_step=run.step,
        processes=run.processes.count,
        changed=dict(changed),
        keep_checkpoints=str(options.keep_checkpoints or 0),
        on_divergence=options.on_divergence or "stop",
    )
    return Environment(
        **facts,
        flatnext=version_of("flatnext"),
        python=platform.python_version(),
        numpy=version_of("numpy"),
        platform=platform.platform(),
        device=str(run.device),
        processes=run.processes.count,
        precision=run.precision,
        kernels=run.device.type == "cpu" and library() is not None,
        parameters=parameter_count(run.model),
        train_images=len(partition.train),
        validation_images=len(partition.validation) if partition.validation is not None else 0,
        test_images=len(partition.test),
        classes=tuple(partition.classes),
        data_dir=str(Path(options.data_dir).absolute()),
        data=run.fingerprint,
        data_notes=tuple(partition.notes),
        not_of_recipe=differences(run.config),
        started_from=run.started_from,
        rollbacks=run.rollbacks,
        sessions=(session,),
    )
