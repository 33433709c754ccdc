"""A finished run, made again from its folder and compared."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch

from flatnext.device import threads
from flatnext.errors import InputError
from flatnext.models import read_weights
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_run
from flatnext.runs.records import Epoch, RunRecord, UnfinishedRun
from flatnext.training.loop import train

TIMES = ("train_seconds", "evaluation_seconds", "images_per_second")
"""What two runs never share."""


@dataclass(frozen=True, kw_only=True)
class Rerun:
    """How a run that was made again compares.

    `tensors` of its weights, of which `differing` have other bits; `largest` is the largest difference of a weight, and
    `epochs` are those whose metrics differ. `circumstances` are phrases on what was not as in the first run.
    """

    folder: Path
    tensors: int
    differing: int
    largest: float
    epochs: tuple[int, ...]
    accuracies: tuple[float, float]
    circumstances: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether weights and metrics are the same to the bit."""
        return not self.differing and not self.epochs


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
        output: the folder of the new one (default: RUN-rerun). A new run that was stopped goes on.
        data_dir: where the data set lies, or is downloaded to.
        device: `auto`, `cpu`, `cuda` ...
        download: whether a missing data set may be fetched.
        overwrite: replace the run in `output`.
        display: where progress is shown; nowhere by default.

    Raises:
        InputError: the run has not finished, was made longer, or was made by several processes; or its data are others.
    """
    first = Path(run)
    if not RunFolder(first).started():
        raise InputError(f"{first} is not the folder of a run: give one with a config.json")
    record = read_run(first, first.name)
    if isinstance(record, UnfinishedRun):
        raise InputError(f"{first} is {record.reason}: finish it first, with flatnext train --resume")
    was = record.environment
    if any(session.changed for session in was.sessions):
        raise InputError(f"{first} was made longer after it had begun: such a run cannot be made again in one go")
    if was.processes > 1:
        raise InputError(f"{first} was made by {was.processes} processes: make it again by torchrun, with --config")
    folder = Path(f"{first}-rerun") if output is None else Path(output)
    config = record.config.override({"precision": was.precision})  # what "auto" was there
    with threads(was.threads):
        train(
            config,
            folder,
            data_dir=data_dir,
            device=device,
            download=download,
            resume=not overwrite,
            overwrite=overwrite,
            display=display,
            track=(),
        )
    again = read_run(folder, folder.name)
    assert isinstance(again, RunRecord)
    return compared(first, record, folder, again)


def compared(first: Path, record: RunRecord, folder: Path, again: RunRecord) -> Rerun:
    """Return how the run in `folder` compares with the first."""
    ours, theirs = (read_weights(path / "last.safetensors")[0] for path in (folder, first))
    differing = [name for name in theirs if name not in ours or not torch.equal(ours[name], theirs[name])]
    sizes = [float((ours[name].double() - theirs[name].double()).abs().max()) for name in differing if name in ours]
    pairs = zip(record.epochs, again.epochs, strict=True)
    was, now = record.environment, again.environment
    return Rerun(
        folder=folder,
        tensors=len(theirs),
        differing=len(differing),
        largest=max(sizes, default=0.0),
        epochs=tuple(old.epoch for old, new in pairs if _measured(old) != _measured(new)),
        accuracies=(record.result.last.test.accuracy, again.result.last.test.accuracy),
        circumstances=tuple(
            f"{name} {getattr(now, name)} instead of {getattr(was, name)}"
            for name in ("device_name", "torch", "threads", "flatnext", "kernels")
            if getattr(now, name) != getattr(was, name)
        ),
    )


def _measured(epoch: Epoch) -> dict[str, float | None]:
    return {item.name: getattr(epoch, item.name) for item in fields(epoch) if item.name not in TIMES}
