"""The data of a run, and whether its model and augmentation fit them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flatnext import data, models
from flatnext.config import Config, Data, most_of, recipes_for
from flatnext.config.data import READING
from flatnext.errors import InputError
from flatnext.runs.fingerprint import DataFingerprint, change
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import ENVIRONMENT
from flatnext.runs.records import Environment
from flatnext.training.class_weights import class_weights
from flatnext.words import counted


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """The data that a run should have: whose they were, in words, the settings that divided them, and what they were.

    `words` begin a message: "the data are not those of the run runs/a". Other data are refused, with `remedy`; with
    None they are trained on, and that is said.
    """

    words: str
    settings: Data
    fingerprint: DataFingerprint
    remedy: str | None = "restore them"

    def check(self, dataset: data.Dataset) -> str | None:
        """Return a note if a data set is another one by now, or raise `InputError`."""
        words = change(self.fingerprint, data.fingerprint(data.partition(dataset, self.settings)))
        if words and self.remedy:
            raise InputError(f"{self.words} ({words}): {self.remedy}")
        return f"{self.words} ({words})" if words else None


def known_data(folder: Path, environment: Environment, settings: Data) -> KnownData | None:
    """Return the data that a run was trained on; None where version 0.1.0 did not note them."""
    words = f"the data are not those that {folder} was trained on"
    return KnownData(words=words, settings=settings, fingerprint=environment.data) if environment.data else None


def data_of(folders: Iterable[Path], settings: Data, remedy: str | None) -> KnownData | None:
    """Return the data of the first of some runs whose images were read as those of `settings`; None: there is none."""
    for folder in map(RunFolder, folders):
        if not folder.started() or not (folder.path / ENVIRONMENT).is_file():
            continue
        known, theirs = folder.environment().data, folder.config().data
        if known and all(getattr(theirs, name) == getattr(settings, name) for name in READING):
            words = f"the data are not those of {folder.path}"
            return KnownData(words=words, settings=theirs, fingerprint=known, remedy=remedy)
    return None


def load_data(
    config: Config,
    data_dir: Path | str,
    *,
    channels: int | None = None,
    download: bool = True,
    progress: bool = False,
    known: KnownData | None = None,
) -> data.Partition:
    """Load and divide the data of a run; `InputError` if that cannot be done. `progress` shows that of a download.

    `channels` are those of a run that goes on: its images keep what they began with, so that runs of versions which
    read all files in colour go on as well. None: as the images have them. With `known` they must be those data, or
    a note says that they are not.
    """
    dataset = data.load_by(config.data, Path(data_dir), channels=channels, download=download, progress=progress)
    note = known.check(dataset) if known else None
    partition = data.partition(dataset, config.data, overwrite=True)
    return replace(partition, notes=(*partition.notes, note)) if note else partition


def check_fit(config: Config, partition: data.Partition, processes: int) -> None:
    """Raise `InputError` if the model, the augmentation or the batch size does not fit the images."""
    channels, size = partition.train.images.shape[1], partition.train.images.shape[-1]
    for name, most in most_of(size).items():
        if getattr(config.data, name) > most:
            fitting = ", ".join(recipes_for(config.data.dataset))
            recipes = f", or take a recipe for {config.data.dataset}: {fitting}" if fitting else ""
            value = getattr(config.data, name)
            raise InputError(f"{name} is {value}: give at most {most} for {size}-pixel images{recipes}")
    class_weights(config, partition)
    with torch.device("meta"):
        model = models.build(config.model, len(partition.classes), channels)
        model(torch.empty(2, channels, size, size))
    sizes = (*(config.data.early_sizes or ()), size)
    for early in sizes:
        if early % model.downsampling:
            raise InputError(f"early_sizes has {early}: give multiples of {model.downsampling}")
    smallest_batch = min(config.batch_size, len(partition.train) % config.batch_size or config.batch_size)
    fewest = smallest_batch // processes // config.grad_accum_steps
    pooled = config.model.block == "sk"  # its attention is computed from one pixel at any image size
    if fewest < 2 and (pooled or min(sizes) == model.downsampling):
        where = "in block sk" if pooled else "where the last stage has one pixel"
        of_full = config.batch_size // processes // config.grad_accum_steps
        if of_full >= 2:
            cause = f"batch_size is {config.batch_size}: the last batch of an epoch leaves"
        elif config.grad_accum_steps > 1:
            cause = f"grad_accum_steps is {config.grad_accum_steps}: a batch of {config.batch_size} leaves"
        else:
            cause = f"batch_size is {config.batch_size}: for {counted(processes, 'process')} it leaves"
        raise InputError(f"{cause} {max(fewest, 1)} image to a pass, and batch norm needs two {where}: change it")
