"""An epoch of a run, replayed from a checkpoint that was kept, and compared to the bit with the one after it."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flatnext.config import Config
from flatnext.device import keep_memory, machine, resolve_device, threads
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.claim import is_claimed
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import CONFIG, METRICS, read_config, read_epochs
from flatnext.runs.records import Environment, Epoch
from flatnext.training.bits import (
    Difference,
    compare_tensors,
    differing_circumstances,
    differing_metrics,
    mixed_sessions,
    sessions_of,
)
from flatnext.training.checkpoint import LAST, PREVIOUS, Checkpoint, kept_checkpoints, read_pair
from flatnext.training.inputs import known_data, load_data
from flatnext.training.metric_sums import NonFiniteLossError
from flatnext.training.options import Options
from flatnext.training.run_state import RunState
from flatnext.training.starting import normalized
from flatnext.training.trainer import Trainer

KEEP = "flatnext train --keep-checkpoints all keeps the checkpoint of each epoch, --keep-checkpoints N the last N"
"""How a run comes by what can be replayed."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Steps that can be replayed: those of `epoch` (from 1), or with None those between two checkpoints.

    `start` None is the beginning of the run. `end` None: there are no weights to compare with, but the metrics.
    """

    epoch: int | None
    start: Path | None
    end: Path | None


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was replayed, in how many seconds, and how it compares with what the run has.

    `weights` are those of the checkpoint `span.end`, where there is one, and with `optimizer` its tensors. `metrics`
    are the names of those of the epoch that differ; None: there are none to compare with. `circumstances` are phrases
    on what was not as in the run.
    """

    span: Span
    steps: tuple[int, int]
    seconds: float
    threads: int
    precision: str
    weights: Difference | None
    optimizer: bool
    metrics: tuple[str, ...] | None
    circumstances: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether all that was compared is the same to the bit."""
        return not self.metrics and (self.weights is None or not self.weights.differing)


def verify(
    run: Path | str,
    *,
    epoch: int | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    display: Display | None = None,
) -> Verified:
    """Replay an epoch of a run from the checkpoint before it, and compare weights, optimizer and metrics.

    Args:
        run: the folder of the run, which is only read.
        epoch: which one, from 1 (None: one by chance, of those that can be compared with weights if there are any).
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        display: where progress is shown; nowhere by default.

    It computes with the run's number of threads and precision. Where no checkpoints were kept, it replays what there
    is: an unfinished run from its checkpoint before the last, else the first epoch, to compare its metrics alone.

    Raises:
        InputError: the epoch cannot be replayed; the data are others; several processes have trained it.
    """
    folder = RunFolder(Path(run))
    if not folder.started():
        raise InputError(f"{run} is not the folder of a run: give one with a config.json")
    options = Options(data_dir=data_dir, device=device, download=download, display=display, track=())
    resolved = resolve_device(device)
    environment = folder.environment()
    lines = {line.epoch: line for line in read_epochs(folder.path / METRICS)}
    there = spans(folder, lines)
    if epoch is None:
        there = [span for span in there if not _has_two_schedules(environment, *_steps(span, lines))] or there
    span = _chosen(folder.path, there, epoch)
    start = read_pair(folder.path, span.start) if span.start else None
    end = read_pair(folder.path, span.end, finished=True) if span.end else None
    line = lines.get(span.epoch or 0)
    first, last = start.step if start else 0, end.step if end else line.step if line else 0
    if line and line.step != last:
        raise InputError(f"{span.end} was kept within an epoch: give another --epoch")
    if _has_two_schedules(environment, first, last):
        raise InputError(f"{run} was made longer within {_called(span)}, which had two schedules: give another --epoch")
    sessions = sessions_of(environment.sessions, first, last)
    if any(session.processes > 1 for session in sessions):
        raise InputError(
            f"{run}: {_called(span)} was trained by several processes: flatnext verify replays those of one"
        )
    config = _config_of(folder, span, start, end)
    with threads(sessions[-1].threads):
        state = _before(folder, config, environment, start, span, options)
        began = time.monotonic()
        again = _replay(state, last, span, options)
    return Verified(
        span=span,
        steps=(first, last),
        seconds=time.monotonic() - began,
        threads=sessions[-1].threads,
        precision=state.precision,
        weights=compare_tensors(_tensors_of(state), _stored(end)) if end else None,
        optimizer=end is not None and end.state is not None,
        metrics=differing_metrics(again, line) if again and line else None,
        circumstances=(
            *differing_circumstances(vars(machine(resolved)), vars(sessions[-1]), ("device_name", "torch")),
            *mixed_sessions(sessions),
        ),
    )


def _steps(span: Span, lines: Mapping[int, Epoch]) -> tuple[int, int]:
    """Return the steps before and after an epoch, as far as its metrics say them."""
    before, after = (lines.get((span.epoch or 0) - back) for back in (1, 0))
    return before.step if before else 0, after.step if after else 0


def _has_two_schedules(environment: Environment, first: int, last: int) -> bool:
    """Return whether the run was given another schedule between two steps; more epochs alone may go on as planned."""
    return any(s.changed.keys() - {"epochs"} and first < s.from_step < last for s in environment.sessions)


def _config_of(folder: RunFolder, span: Span, start: Checkpoint | None, end: Checkpoint | None) -> Config:
    """Return the config with which an epoch was trained. A run that is made longer has another one from then on."""
    origins = [checkpoint.origin for checkpoint in (start, end) if checkpoint and checkpoint.origin]
    configs = [origin.config for origin in origins] or [read_config(folder.path / CONFIG)]
    # The checkpoint before the epoch has it, unless that is the last one of a run before it was made longer.
    config = next((config for config in configs if (span.epoch or 0) <= config.epochs), configs[-1])
    if start is None and config.schedule.schedule_begins:
        raise InputError(
            f"{folder.path}: the schedule of {_called(span)} is not known, as the run was made longer after it: give "
            "another --epoch"
        )
    return config


def spans(folder: RunFolder, lines: Mapping[int, Epoch]) -> list[Span]:
    """Return what of a run can be replayed and compared with weights; else its first epoch, if that has metrics."""
    path, kept = folder.path, kept_checkpoints(folder.path)
    starts: dict[int, Path | None] = {0: None, **kept}
    ends: dict[int, Path] = dict(kept)
    parts: list[Span] = []
    if folder.finished():
        ends.setdefault(folder.result().last.epoch, path / LAST)
    elif not is_claimed(path):  # nobody is writing them
        there = {name: read_pair(path, path / name) for name in (PREVIOUS, LAST) if (path / name).exists()}
        for name, checkpoint in there.items():
            if (at := _epochs(checkpoint)) is not None:
                ends.setdefault(at, path / name)
                starts.setdefault(at, path / name)
        if len(there) == 2 and there[PREVIOUS].step < there[LAST].step:
            parts = [Span(epoch=None, start=path / PREVIOUS, end=path / LAST)]  # else the run has gone back
    whole = [Span(epoch=e, start=starts[e - 1], end=ends[e]) for e in sorted(ends) if e - 1 in starts]
    return whole or parts or [Span(epoch=1, start=None, end=None)] * (1 in lines)


def _epochs(checkpoint: Checkpoint) -> int | None:
    """Return how many epochs a checkpoint has had; None where it was written within one."""
    state = checkpoint.state
    return state["epoch"] if state and not state["step_in_epoch"] else None


def _chosen(path: Path, there: Sequence[Span], epoch: int | None) -> Span:
    if not there:
        raise InputError(f"{path} has nothing to replay yet: {KEEP}")
    if epoch is None:
        return random.SystemRandom().choice(there)
    of_epoch = [span for span in there if span.epoch == epoch]
    if not of_epoch:
        epochs = ", ".join(str(span.epoch) for span in there if span.epoch)
        raise InputError(
            f"epoch {epoch} of {path} cannot be replayed, for want of the checkpoints before and after it: "
            f"{f'take one of {epochs}; ' if epochs else ''}{KEEP}"
        )
    return of_epoch[0]


def _before(
    folder: RunFolder,
    config: Config,
    environment: Environment,
    start: Checkpoint | None,
    span: Span,
    options: Options,
) -> RunState:
    """Return the run as it was before the span."""
    known = known_data(folder.path, environment, config.data)
    channels = start.channels if start else None
    partition = load_data(config, options.data_dir, channels=channels, download=options.download, known=known)
    keep_memory()
    config = config.override({"precision": environment.precision})  # what "auto" was there
    run = RunState(config, folder, normalized(config, partition, start), resolve_device(options.device))
    if start is None:
        run.begin()
    else:
        assert start.state is not None
        run.restore(start, start.state)
    if span.epoch is not None:
        run.rollbacks = tuple(rollback for rollback in environment.rollbacks if rollback.epoch <= span.epoch)
    return run


def _replay(run: RunState, last: int, span: Span, options: Options) -> Epoch | None:
    """Take the steps up to `last`; return the metrics of the epoch, where the span is one."""
    trainer = Trainer(run, options)
    title, first = f"replaying {_called(span)}", run.step
    try:
        with trainer.display.task(title, run.work(last), run.work(first)) as task:
            if span.epoch is not None:
                trainer.train_epoch(task, checkpoints=False)
                return trainer.measure()[0]
            while run.step < last:
                trainer.train_epoch(task, checkpoints=False, until=last)
                if run.step < last:
                    run.finish_epoch()
    except NonFiniteLossError as error:
        raise InputError(f"{title}: the loss is not finite at step {error.step}, as it was not in the run") from error
    return None


def _called(span: Span) -> str:
    return "the steps between its last two checkpoints" if span.epoch is None else f"epoch {span.epoch}"


def _tensors_of(run: RunState) -> dict[str, Tensor]:
    """Return the tensors of a run by name: weights, those trained on where these are averages, the optimizer's."""
    averaged = run.model.state_dict() if run.average else {}
    return _named(run.evaluated.state_dict(), averaged, run.optimizer.state_dict())


def _stored(checkpoint: Checkpoint) -> dict[str, Tensor]:
    state = checkpoint.state or {}
    return _named(checkpoint.weights, state.get("weights", {}), state.get("optimizer") or {})


def _named(
    weights: Mapping[str, Tensor], trained: Mapping[str, Tensor], optimizer: Mapping[str, Any]
) -> dict[str, Tensor]:
    return {
        **weights,
        **{f"trained {name}": value for name, value in trained.items()},
        **{
            f"optimizer {number} {name}": value
            for number, entry in optimizer.get("state", {}).items()
            for name, value in entry.items()
            if isinstance(value, Tensor)
        },
    }
