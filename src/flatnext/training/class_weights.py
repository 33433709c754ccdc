"""The weights of the classes in the training loss."""

from __future__ import annotations

import torch
from torch import Tensor

from flatnext import data
from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.words import counted


def class_weights(
    config: Config,
    partition: data.Partition,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """Return the weight of each class in the training loss; None where all count alike.

    `balanced` is n / (K n_k) as in scikit-learn: n training images, n_k of the class, and K classes that have some.
    Numbers are divided by their mean over the images of an epoch, as `balanced` is already: so the learning rate means
    what it does without weights. `InputError`: there are not as many numbers as classes.
    """
    if config.class_weights == "none":
        return None
    counts = torch.bincount(partition.train.labels.cpu(), minlength=len(partition.classes)).double()
    given = config.given_class_weights
    if given is None:
        weights = counts.sum() / (int((counts > 0).sum()) * counts)
        return weights.masked_fill(counts == 0, 1.0).to(device, dtype)
    if len(given) != len(counts):
        raise InputError(
            f"class_weights has {counted(len(given), 'number')}: give one for each of the {len(counts)} classes, in "
            f"the order {', '.join(partition.classes)}"
        )
    shown = (counts > 0).double() if config.data.sampler == "balanced" else counts
    weights = torch.tensor(given, dtype=torch.float64)
    return (weights * shown.sum() / (weights * shown).sum()).to(device, dtype)
