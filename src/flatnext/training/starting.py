"""The trained weights that a run starts from: which they are, what of them is taken, and what is new."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path

from torch import Tensor

from flatnext import models
from flatnext.config import Config, Model, differences, model_name
from flatnext.data import Partition
from flatnext.errors import InputError
from flatnext.files import sha256
from flatnext.models import Network, Origin
from flatnext.models.transfer import STEM, transfer
from flatnext.runs.fingerprint import DataFingerprint
from flatnext.runs.records import StartingWeights
from flatnext.training.checkpoint import Checkpoint
from flatnext.words import counted

WAYS = {"stem": "the stem", "stages": "the stem and all stages but the last", "all-but-head": "all but the head"}
"""What is frozen, in words."""


@dataclass(frozen=True, kw_only=True)
class TrainedWeights:
    """Weights that were read from a file, as `config.start.weights` calls it; `origin` is None where it says none.

    `sha256` is that of the file, `digest` that of `digest_weights`.
    """

    name: str
    path: Path
    sha256: str
    digest: str
    state: dict[str, Tensor]
    origin: Origin | None


def read_start(config: Config) -> TrainedWeights | None:
    """Read the weights that a run with this config starts from; None if it starts from new ones.

    `InputError`: there is no such file, it is damaged, or it is not the one that the run began with.
    """
    start = config.start
    if start.weights is None:
        return None
    path = models.find_weights(os.path.expanduser(start.weights))
    state, metadata = models.read_weights(path)
    file, digest = sha256(path), models.digest_weights(state, metadata)
    if start.weights_sha256 not in (None, digest, file):
        raise InputError(
            f"{path} does not hold the weights that the run starts from (their SHA-256 is {digest[:8]}..., not "
            f"{start.weights_sha256[:8]}...): restore it, or start a run anew with --weights and another --output"
        )
    origin = models.read_origin(metadata, path)
    return TrainedWeights(name=start.weights, path=path, sha256=file, digest=digest, state=state, origin=origin)


def settled(config: Config, *, model_given: bool = False) -> Config:
    """Return the config with the SHA-256 of the weights that it starts from, and with their model.

    A model that is not the recipe's, or with `model_given` any, is one that somebody asked for: if it is not that of
    the weights, that is an `InputError`. A config that has the SHA-256 is returned as it is, and nothing is read.
    """
    if config.start.weights is None or config.start.weights_sha256 is not None:
        return config
    weights = read_start(config)
    assert weights is not None
    config = replace(config, start=replace(config.start, weights_sha256=weights.digest))
    if weights.origin is None:
        return config
    theirs = replace(weights.origin.config.model, parameter_budget=config.model.parameter_budget)
    if config.model == theirs:
        return config
    settings = {item.name for item in fields(Model)} | {"model"}
    if model_given or config.recipe == "custom" or differences(config).keys() & settings:
        raise InputError(
            f"model is {_called(config.model)}, and {weights.path} has weights of {_called(theirs)}: leave the model "
            "out, as it is that of the weights, or give other --weights"
        )
    return replace(config, model=theirs)


def _called(model: Model) -> str:
    return model_name(model) or f"a model of its own (block {model.block}, blocks {model.blocks}, stem {model.stem})"


def normalized(config: Config, partition: Partition, checkpoint: Checkpoint | None) -> Partition:
    """Return a partition that is normalised as the weights that the run starts from need it.

    That is as in their own training, since their layers were fitted to it; a run that has a checkpoint goes on as in
    that. Without such weights, or where they do not say it, it is as the data set has it.
    """
    if config.start.weights is None:
        return partition
    if checkpoint:
        origin = checkpoint.origin
    else:
        weights = read_start(config)
        origin = weights.origin if weights else None
    if origin is None:
        return partition
    return replace(partition, normalization=origin.normalization.for_channels(partition.train.images.shape[1]))


def begin(model: Network, config: Config, data: DataFingerprint) -> StartingWeights | None:
    """Put the weights that the run starts from into its model, and return what was taken; None if there are none.

    `data` are those of the run. The head is taken where it is of the same classes in the same order, and otherwise new.
    Where nobody knows its classes, it is taken if there are as many.
    """
    weights, classes = read_start(config), data.classes
    if weights is None:
        return None
    outputs = next((value.shape[0] for name, value in weights.state.items() if name.endswith("linear.weight")), None)
    if weights.origin is None:
        head = outputs == len(classes)
        why = f"it had {outputs}" if outputs != len(classes) else ""
    else:
        theirs = weights.origin.classes
        head = theirs == classes
        why = f"it had {len(theirs)}" if len(theirs) != len(classes) else "it had others"
    channels = model.get_parameter(f"{STEM}.weight").shape[1]
    stem = next((value for name, value in weights.state.items() if name.endswith(f"{STEM}.weight")), None)
    before = channels if stem is None or stem.ndim != 4 else stem.shape[1]
    transfer(model, weights.state, weights.path, head=head)
    parts = [
        "all weights are taken"
        if head
        else f"stem and stages are taken, the head for {len(classes)} classes is new ({why})"
    ]
    if before != channels:
        way = "summed to" if channels == 1 else "divided among"
        parts.append(f"the stem's weights for {counted(before, 'channel')} are {way} {channels}")
    if weights.origin is None:
        parts.append("images are normalised by their own statistics, as the file does not say how it had them")
    else:
        parts.append("images are normalised as they were for these weights")
    if config.start.freeze != "none":
        parts.append(f"{WAYS[config.start.freeze]} will not be trained")
    known = _may_know_held_out(weights.origin, config, data)
    if known:
        parts.append(
            "they may have been trained on images that are held out here: validation looks better than it is, and "
            "answers are not calibrated (flatnext calibrate does it, with other images)"
        )
    return StartingWeights(weights=weights.name, sha256=weights.sha256, taken="; ".join(parts), may_know_held_out=known)


def _may_know_held_out(origin: Origin | None, config: Config, data: DataFingerprint) -> bool:
    """Return whether weights of the same data set may have been trained on images that are held out now.

    They have not where both runs train on the same images, or hold out the same. Of weights that do not say their data
    set nothing is known, and of a folder it is the same if a class is.
    """
    held_out = [images for images in (data.validation, data.calibration) if images is not None]
    if origin is None or not held_out or origin.config.data.dataset != config.data.dataset:
        return False
    if config.data.dataset == "folder" and not set(origin.classes) & set(data.classes):
        return False
    before = origin.data
    if before is None or origin.knows_held_out:
        return True
    apart = (before.validation, before.calibration)
    return before.train != data.train and not all(images in apart for images in held_out)
