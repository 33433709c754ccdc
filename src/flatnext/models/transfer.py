"""Taking trained weights into a network with another head or other input channels, and freezing parts of it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from flatnext.errors import InputError
from flatnext.models.network import Network
from flatnext.models.weights import assign_weights, fit_names
from flatnext.words import counted

STEM, HEAD = "conv1", "linear"
"""The first and the last layer of a `Network`."""


def transfer(model: Network, state: dict[str, Tensor], path: str | Path, *, head: bool) -> None:
    """Load trained weights into `model`; without `head` the last layer stays as it is.

    Where the stem of `state` has another number of input channels: for grey images it is the sum over the channels,
    for colour images the grey one a third each, so that a grey image gives the same output in either form. `path` is
    where the weights come from, for errors. `InputError`: they are of another model, which is then unchanged.
    """
    current = model.state_dict()
    state = dict(fit_names(state, current, path))
    stem, channels = f"{STEM}.weight", current[f"{STEM}.weight"].shape[1]
    if stem in state and state[stem].ndim == 4 and state[stem].shape[1] != channels:
        state[stem] = _with_channels(state[stem], channels, path)
    if not head:
        state |= {name: value for name, value in current.items() if name.startswith(f"{HEAD}.")}
    assign_weights(model, state, path)


def _with_channels(weight: Tensor, channels: int, path: str | Path) -> Tensor:
    """Return the weight of a stem (out x in x k x k) for another number of input channels."""
    if channels == 1:
        return weight.float().sum(dim=1, keepdim=True)
    if weight.shape[1] == 1:
        return weight.float().repeat(1, channels, 1, 1) / channels
    takes = counted(weight.shape[1], "channel")
    raise InputError(f"{path}: its stem takes {takes}, and the images have {channels}: give others")


def freeze(model: Network, which: str) -> tuple[nn.Module, ...]:
    """Keep parts of a model from being trained: `none`, `stem`, `stages` (with the stem, but the last) or all-but-head.

    Returns the batch norms of these parts. They are to be in evaluation mode while the rest trains, so that their
    running statistics stay as they are.
    """
    stem, *others = [name for name, _ in model.named_children() if name != HEAD]
    stem_parts = [stem, *(name for name in others if name == "bn1")]
    parts = {
        "none": [],
        "stem": stem_parts,
        "stages": [*stem_parts, *model.stages[:-1]],
        "all-but-head": [stem, *others],
    }[which]
    frozen = [getattr(model, name).requires_grad_(False) for name in parts]
    return tuple(m for part in frozen for m in part.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
