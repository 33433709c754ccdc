"""The data of a run, and whether its model and augmentation fit them."""

from __future__ import annotations

from pathlib import Path

import torch

from flatnext import data, models
from flatnext.config import Config, recipes_for
from flatnext.errors import InputError
from flatnext.training.checkpoint import read_last_weights
from flatnext.training.class_weights import class_weights


def load_data(
    config: Config,
    data_dir: Path | str,
    *,
    began: Path | None = None,
    download: bool = True,
    progress: bool = False,
) -> data.Partition:
    """Load and divide the data of a run; `InputError` if that cannot be done. `progress` shows that of a download.

    `began` is the folder of a run that goes on: its images keep the channels that they began with, so that runs of
    versions which read all files in colour go on as well.
    """
    last = read_last_weights(began) if began else None
    channels = models.input_channels(last[1]) if last else None
    dataset = data.load_by(config.data, Path(data_dir), channels=channels, download=download, progress=progress)
    return data.partition(dataset, config.data, overwrite=True)


def check_fit(config: Config, partition: data.Partition, processes: int) -> None:
    """Raise `InputError` if the model, the augmentation or the batch size does not fit the images."""
    channels, size = partition.train.images.shape[1], partition.train.images.shape[-1]
    for name, most in (("crop_padding", 2 * size), ("cutout", size)):
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
        raise InputError(
            f"batch_size is {config.batch_size}: the last batch of an epoch leaves {max(fewest, 1)} image to a pass, "
            f"and batch norm needs two {where}: change it"
        )
