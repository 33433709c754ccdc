"""A finished run, made again from its folder and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flatnext.errors import InputError
from flatnext.models import read_weights
from flatnext.progress import Display
from flatnext.runs.artifact import require_run
from flatnext.runs.folder import ANOTHER, OVERWRITE, RunFolder
from flatnext.runs.reading import METRICS, read_run
from flatnext.runs.records import RunRecord, Session, UnfinishedRun
from flatnext.training.bits import (
    Difference,
    compare_tensors,
    differing_circumstances,
    differing_metrics,
    mixed_sessions,
    sessions_of,
)
from flatnext.training.checkpoint import LAST
from flatnext.training.inputs import known_data
from flatnext.training.options import Options
from flatnext.training.session import run_session
from flatnext.training.trainer import Trainer
from flatnext.words import counted

CIRCUMSTANCES = ("device_name", "torch", "threads", "flatnext", "kernels")
"""What may change bits, of what the environment of a run says."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """How a run that was made again compares.

    `epochs` are those whose metrics differ. `circumstances` are phrases on what was not as in the first run.
    """

    folder: Path
    weights: Difference
    epochs: tuple[int, ...]
    accuracies: tuple[float, float]
    circumstances: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether weights and metrics are the same to the bit."""
        return not self.weights.differing and not self.epochs


def rerun(
    run: Path | str,
    output: Path | str | None = None,
    *,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    overwrite: bool = False,
    display: Display | None = None,
) -> Rerun:
    """Train a finished run again, with its config, precision and number of threads, and compare the two.

    Args:
        run: the folder of the run, which is only read.
        output: the folder of the new one (default: RUN-rerun). If it holds one that was stopped, that goes on.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        overwrite: replace the run in `output`.
        display: where progress is shown; nowhere by default.

    Raises:
        InputError: the run has not finished, was made longer, or was made by several processes; its data are others; or
            `output` holds a finished run.
    """
    first = Path(run)
    require_run(first)
    record = read_run(first, first.name)
    if isinstance(record, UnfinishedRun):
        raise InputError(f"{first} is {record.reason}: finish it first, with {RunFolder(first).resume_command}")
    if len(record.epochs) < record.config.epochs:
        lines = f"{len(record.epochs)} of {counted(record.config.epochs, 'epoch')}"
        raise InputError(f"{first / METRICS} has {lines} of a finished run: restore it")
    was = record.environment
    if any(session.changed for session in was.sessions):
        raise InputError(f"{first} was made longer after it had begun: such a run cannot be made again in one go")
    sessions = sessions_of(was.sessions, 0, record.epochs[-1].step)
    if (processes := max(session.processes for session in sessions)) > 1:
        raise InputError(f"{first} was made by {processes} processes: make it again by torchrun, with --config")
    folder = Path(f"{first}-rerun") if output is None else Path(output)
    if RunFolder(folder).finished() and not overwrite:
        raise InputError(f"{folder} holds a finished run: {ANOTHER}, or {OVERWRITE}")
    config = record.config.override({"precision": was.precision})  # what "auto" was there
    options = Options(
        data_dir=data_dir,
        device=device,
        download=download,
        resume=not overwrite,
        overwrite=overwrite,
        display=display,
        track=(),
        threads=was.threads,
        on_divergence="rollback" if was.rollbacks else was.sessions[-1].on_divergence,
        known=known_data(first, record.environment, record.config.data),
    )
    run_session(config, folder, options, Trainer.fit, RunFolder.result)
    again = read_run(folder, folder.name)
    assert isinstance(again, RunRecord)
    return compared(first, record, folder, again, sessions)


def compared(first: Path, record: RunRecord, folder: Path, again: RunRecord, sessions: Sequence[Session]) -> Rerun:
    """Return how the run in `folder` compares with the first, whose steps `sessions` took."""
    ours, theirs = (read_weights(path / LAST)[0] for path in (folder, first))
    pairs = zip(again.epochs, record.epochs, strict=True)
    was, now = vars(record.environment), vars(again.environment)
    return Rerun(
        folder=folder,
        weights=compare_tensors(ours, theirs),
        epochs=tuple(old.epoch for new, old in pairs if differing_metrics(new, old)),
        accuracies=(record.result.last.test.accuracy, again.result.last.test.accuracy),
        circumstances=(*differing_circumstances(now, was, CIRCUMSTANCES), *mixed_sessions(sessions)),
    )
