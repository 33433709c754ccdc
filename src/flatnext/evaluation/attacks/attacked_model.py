"""A model as an attack sees it: images in [0, 1] in, logits and gradients out, and a count of its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from flatnext.device import dtype
from flatnext.errors import InputError
from flatnext.evaluation.predictor import Predictor, evaluation_mode

Loss = Callable[[Tensor], Tensor]
"""From logits (B x classes) to a loss for each image (B), which the attack raises."""


class AttackedModel:
    """A predictor for images in [0, 1] that need not be whole levels, with gradients by the pixels.

    `forward` and `backward` count the images that went through it. `InputError`: the weights are of another type than
    the predictor's precision.
    """

    def __init__(self, predictor: Predictor) -> None:
        weight = next(predictor.model.parameters())
        self.predictor, self.device, self.dtype = predictor, weight.device, dtype(predictor.precision)
        if weight.dtype != self.dtype:
            raise InputError(
                f"the weights are {weight.dtype}: for precision {predictor.precision} make them {self.dtype}"
            )
        self.forward, self.backward = 0, 0
        constants = (values.to(self.dtype) for values in predictor.normalization.tensors(self.device))
        self._mean, self._std = (values.reshape(1, -1, 1, 1) for values in constants)

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (B x classes) of images (B x 3 x H x W, in [0, 1]), with their graph if one is wanted."""
        self.forward += len(images)
        inputs = (images - self._mean) / self._std
        return self.predictor.forward(inputs.contiguous(memory_format=self.predictor.memory_format))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
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
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode, its parameters without gradients (which halves the cost of a backward pass).

    The mode of every module and `requires_grad` of every parameter are put back; `.grad` and buffers are not touched.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with evaluation_mode(model):
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
