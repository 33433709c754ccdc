"""Trained models by name, without a network: their weights come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flatnext import models
from flatnext.errors import InputError
from flatnext.models.catalog import entry_of
from flatnext.models.factory import refuse_arguments
from flatnext.models.transfer import transfer


@dataclass(frozen=True, kw_only=True)
class PretrainedInfo(models.Origin):
    """What belongs to a model of `from_pretrained`: its file, and what its answers and its input mean.

    `classes[i]` is the name of logit i. `accuracy` (a fraction, over `count` test images) is known of what ships.
    """

    path: Path
    accuracy: float | None = None
    count: int | None = None

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images (N x C x H x W) as the model takes them: float32, less the mean, over the std.

        The model was trained on images of `image_size` pixels a side: resize others before. Raises `InputError`.
        """
        return self.normalization(images)


def pretrained_info(name: str | Path) -> PretrainedInfo:
    """Return classes, normalisation, config and accuracy of a pretrained model; `name` as for `from_pretrained`."""
    return _read(name)[0]


def from_pretrained(
    name: str | Path, *, classes: int | None = None, channels: int | None = None, **unknown: Any
) -> nn.Module:
    """Return a trained model on the CPU, in float32 and in evaluation mode.

    It maps normalised images (float32, N x C x H x W) to logits (N x classes). What is normalised are uint8 pixels from
    0 to 255, of the size and channels that the model was trained on, by `pretrained_info(name).normalize`: in [0, 1],
    less the mean, over the standard deviation. Pixels that were divided by 255 or normalised otherwise give wrong
    answers without an error. `flatnext.load(name).predict` does all of it, for files and images of any size.

    Example::

        model, info = flatnext.from_pretrained(name), flatnext.pretrained_info(name)
        images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)  # yours
        logits = model(info.normalize(images))

    Args:
        name: of weights that ship with the package: `resnext29-cifar10`, for the most accurate ones, or the full name
            of one, such as `resnext29-cifar10-cpu` (`flatnext weights` lists them). It may also be a weights file or a
            run folder of this package; a path that exists wins over a name.
        classes: for a model to train further: outputs of a new last layer, whose weights are torch's initial ones, from
            its global generator (None: the last layer of the weights).
        channels: of the images, where the first layer is to be changed for them: 1 for grey ones, whose weights are the
            sum over the colours. Normalise by `info.normalization.for_channels(channels)` then.

    Raises:
        InputError: nothing has this name, the file is damaged or does not say of which model it is, the weights cannot
            have so many classes or channels, or an argument is unknown.
    """
    refuse_arguments("from_pretrained", unknown)
    info, state = _read(name)
    if classes is None and channels is None:
        return models.restore(info.config.model, len(info.classes), state, info.path)
    wanted = len(info.classes) if classes is None else classes
    model = models.build(info.config.model, wanted, models.input_channels(state) or 3 if channels is None else channels)
    transfer(model, state, info.path, head=classes is None)
    return model.eval()


def _read(name: str | Path) -> tuple[PretrainedInfo, dict[str, Tensor]]:
    path = models.find_weights(name)
    state, metadata = models.read_weights(path)
    origin = models.read_origin(metadata, path)
    if origin is None:
        raise InputError(f"{path} does not say of which model it is: make the model, and use flatnext.load_weights")
    entry = None if Path(name).exists() else entry_of(str(name))
    accuracy, count = (entry.accuracy, entry.count) if entry else (None, None)
    return PretrainedInfo(**vars(origin), path=path, accuracy=accuracy, count=count), state
