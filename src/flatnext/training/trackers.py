"""Where the metrics of a run are sent: TensorBoard, Weights & Biases, or MLflow."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from flatnext.config import Config
from flatnext.errors import InputError, choose
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import STUDY
from flatnext.runs.records import Epoch
from flatnext.versions import import_extra

PROJECT = "flatnext"
"""The project of Weights & Biases, and the experiment of MLflow for runs that belong to no study."""


class Tracker:
    """Takes the metrics of a run, an epoch at a time. A run that is resumed gives those before as `epochs`."""

    extra: ClassVar[str | None] = None
    """The package that it needs, which is also the name of its extra; None: one that is always there."""

    def __init__(self, folder: RunFolder, config: Config, epochs: Sequence[Epoch]) -> None:
        raise NotImplementedError

    def add(self, epoch: Epoch) -> None:
        """Take the metrics of a finished epoch."""
        raise NotImplementedError

    def close(self, *, finished: bool) -> None:
        """Write what is left; `finished` says whether the run came to its end."""
        raise NotImplementedError


class TensorBoard(Tracker):
    """Event files in the run folder; a resumed run begins with the epochs that it has, in a new file.

    They are written here and not by the writer of TensorBoard, whose thread of its own can only print what went wrong.
    """

    def __init__(self, folder: RunFolder, config: Config, epochs: Sequence[Epoch]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # a second to import, so only where a run writes events

        place = folder.path / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)
        self.path = place / f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.0"
        self._write([Event(wall_time=time.time(), file_version="brain.Event:2")])
        for epoch in epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        """See `Tracker`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(epoch).items()]
        self._write([Event(wall_time=time.time(), step=epoch.step, summary=Summary(value=values))])

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""

    def _write(self, events: Sequence[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        content = io.BytesIO()
        for event in events:
            RecordWriter(content).write(event.SerializeToString())
        try:
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(content.getvalue())
        except OSError as error:
            remedy = "free the disk, or go on without it, with --track none"
            raise InputError(f"cannot write {self.path}: {error.strerror}; {remedy}") from error


class Wandb(Tracker):
    """Weights & Biases, in the folder `wandb` beside the run or in its study. `WANDB_MODE` is `offline` if not set.

    `wandb sync wandb/offline-run-*` uploads what was written offline. The runs of a study are a group.
    """

    extra = "wandb"

    def __init__(self, folder: RunFolder, config: Config, epochs: Sequence[Epoch]) -> None:
        wandb = import_extra("wandb", "wandb")
        place, group = _place(folder.path)
        identifier = _identifier(folder)
        known = any((place / "wandb").glob(f"*-{identifier}"))
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=str(place),
            id=identifier,
            resume="allow",
            group=group,
            name=_name(folder.path, place),
            config=config.flat() | {"recipe": config.recipe},
            settings=wandb.Settings(silent=True, console="off"),
        )
        for epoch in () if known else epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        """See `Tracker`."""
        self.run.log(scalars(epoch), step=epoch.step)

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""
        self.run.finish(exit_code=0 if finished else 1)


class Mlflow(Tracker):
    """MLflow, at `MLFLOW_TRACKING_URI`; if that is not set, in `mlflow.db` beside the run or in its study.

    `mlflow ui --backend-store-uri sqlite:///mlflow.db` shows it. The runs of a study are an experiment.
    """

    extra = "mlflow"

    def __init__(self, folder: RunFolder, config: Config, epochs: Sequence[Epoch]) -> None:
        tracking = import_extra("mlflow.tracking", "mlflow")
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it speaks of its own tables
        place, group = _place(folder.path)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(place / 'mlflow.db').resolve()}"
        self.client: Any = tracking.MlflowClient(tracking_uri=uri)
        experiment = self._experiment(group or PROJECT, place)
        identifier = _identifier(folder)
        known = self.client.search_runs([experiment], f"tags.`flatnext.id` = '{identifier}'", max_results=1)
        if known:
            self.run = known[0].info.run_id
            self.client.update_run(self.run, status="RUNNING")
        else:
            tags = {"flatnext.id": identifier, "flatnext.folder": str(folder.path)}
            self.run = self.client.create_run(experiment, run_name=_name(folder.path, place), tags=tags).info.run_id
            for name, value in (config.flat() | {"recipe": config.recipe}).items():
                self.client.log_param(self.run, name, value)
        written = self.client.get_metric_history(self.run, "loss/train") if known else []
        last = max((metric.step for metric in written), default=0)
        for epoch in epochs:
            if epoch.step > last:
                self.add(epoch)

    def _experiment(self, name: str, place: Path) -> str:
        there = self.client.get_experiment_by_name(name)
        if there:
            return there.experiment_id
        return self.client.create_experiment(name, artifact_location=(place / "mlartifacts").resolve().as_uri())

    def add(self, epoch: Epoch) -> None:
        """See `Tracker`."""
        for name, value in scalars(epoch).items():
            self.client.log_metric(self.run, name, value, step=epoch.step)

    def close(self, *, finished: bool) -> None:
        """See `Tracker`."""
        self.client.set_terminated(self.run, status="FINISHED" if finished else "KILLED")


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}
"""The trackers by the names that `--track` takes."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise `InputError` for a name that is no tracker's, or one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"unknown tracker {name!r}: {choose(name, TRACKERS)}")
        if extra := TRACKERS[name].extra:
            import_extra(extra, extra)


@contextmanager
def tracked(names: Sequence[str], folder: RunFolder, config: Config) -> Iterator[list[Tracker]]:
    """Give the trackers of a run, with its finished epochs, and close them."""
    trackers: list[Tracker] = []
    finished = False
    try:
        trackers.extend(TRACKERS[name](folder, config, folder.epochs()) for name in names)
        yield trackers
        finished = True
    finally:
        for tracker in trackers:
            tracker.close(finished=finished)


def scalars(epoch: Epoch) -> dict[str, float]:
    """Return the numbers of an epoch that were measured, as `loss/train`, `accuracy/test`, `run/learning_rate` ..."""
    values = {}
    for key, value in vars(epoch).items():
        split, _, name = key.partition("_")
        if value is not None and key not in ("epoch", "step"):
            values[f"{name}/{split}" if name in ("loss", "accuracy", "balanced_accuracy") else f"run/{key}"] = value
    return values


def _place(run: Path) -> tuple[Path, str | None]:
    """Return the folder that a run shares with those it belongs to, and the name of its study if it is in one."""
    run = run.resolve()
    study = run.parent.parent
    return (study, study.name) if (study / STUDY).is_file() else (run.parent, None)


def _name(run: Path, place: Path) -> str:
    return run.resolve().relative_to(place).as_posix().replace("/", "-")


def _identifier(folder: RunFolder) -> str:
    """Return an id of a run that stays when it is resumed, and is another when it is made anew."""
    started = folder.environment().sessions[0].started
    return hashlib.sha256(f"{folder.path.resolve()} {started}".encode()).hexdigest()[:16]
