"""A model as an attack sees it: images in [0, 1] in, logits and gradients out, and a count of its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flatnext.device import autocast, dtype
from flatnext.errors import InputError
from flatnext.models import answering_form

Loss = Callable[[Tensor], Tensor]
"""From logits (B x classes) to a loss an image (B), which the attack raises."""


class Target:
    """A model behind its normalisation; `forward` and `backward` count the images that went through it."""

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        precision: str = "fp32",
        channels_last: bool = True,
    ) -> None:
        if precision not in ("fp32", "bf16", "fp64"):
            raise InputError(f"precision is {precision!r}: choose fp32, bf16 or fp64")
        weight = next(model.parameters())
        self.device, self.dtype, self.precision = weight.device, dtype(precision), precision
        if weight.dtype != self.dtype:
            raise InputError(f"the weights are {weight.dtype}: for precision {precision} make them {self.dtype}")
        self.forward, self.backward = 0, 0
        self._model = answering_form(model, precision)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        constants = torch.tensor([tuple(mean), tuple(std)], dtype=torch.float64).to(self.device, self.dtype)
        self._mean, self._std = constants.reshape(2, 1, -1, 1, 1)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B x classes) of images (B x 3 x H x W, in [0, 1]), with their graph if one is wanted."""
        self.forward += len(images)
        inputs = ((images - self._mean) / self._std).contiguous(memory_format=self._layout)
        with autocast(self.precision, self.device):
            outputs = self._model(inputs)
        return outputs.to(self.dtype)

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Return the logits (B x classes), without a graph."""
        return self.logits(images)

    def gradient(self, images: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B x classes), the loss of each image (B), and its gradient by that image's pixels."""
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.logits(images)
            losses = loss(logits)
            (gradient,) = torch.autograd.grad(losses.sum(), images)
        self.backward += len(images)
        return logits.detach(), losses.detach(), gradient


@contextmanager
def attackable(model: nn.Module) -> Iterator[nn.Module]:
    """Hold a model in evaluation mode, its parameters without gradients (a backward pass costs half then).

    The mode of every module and `requires_grad` of every parameter are put back; `.grad` and buffers are not touched.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval()
    try:
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, want in wanted:
            parameter.requires_grad_(want)
