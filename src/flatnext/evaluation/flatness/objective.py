"""The objective that flatness is measured on: the mean loss on given images as a function of a model's weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext.data import Split
from flatnext.device import autocast, dtype, place
from flatnext.errors import InputError
from flatnext.evaluation.predictor import Predictor
from flatnext.models import inference_copy


class Objective:
    """Mean cross-entropy of a model in evaluation mode on all images of a split, none augmented.

    It is the loss of the data alone: without weight decay, and without the label smoothing or mixing of training.
    Measure on training images, since training minimised their loss. The objective has a copy of the model; the model
    keeps its weights, gradients, mode and buffers. All parameters count, whether they require a gradient or not.

    In bf16 a change of the loss is off by a few thousandths, as outputs and small changes of weights are rounded: rises
    that are as small need fp32, and the Hessian is not given in bf16.

    Args:
        predictor: a model whose outputs are (N, ...), with its normalisation, device and precision, in which the copy
            is put.
        split: the images and labels.
        batch_size: images at a time; the results depend on it by rounding only. A Hessian-vector product needs three
            times the memory of a gradient: of ResNeXt-29 in fp32, on a CPU, 0.12 GB an image.
        loss: of outputs and labels, a mean over the images.

    Raises:
        InputError: no images, a model without parameters, or an unknown setting.
    """

    def __init__(
        self,
        predictor: Predictor,
        split: Split,
        *,
        batch_size: int = 32,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: give at least 1")
        if not len(split):
            raise InputError("there are no images to measure the loss on: give at least one")
        if next(predictor.model.parameters(), None) is None:
            raise InputError("the model has no parameters: give one whose weights can be moved")
        self.precision, self.batch_size = predictor.precision, batch_size
        self._predictor, self._split, self._loss = predictor, split.to(predictor.device), loss
        self._model = _copy_of(predictor)
        self.parameters: list[Tensor] = list(self._model.parameters())

    @property
    def count(self) -> int:
        """Return the number of images."""
        return len(self._split)

    @property
    def dimension(self) -> int:
        """Return the number of weights."""
        return sum(p.numel() for p in self.parameters)

    @cached_property
    def clean(self) -> float:
        """Return the loss at the model's own weights."""
        return self.value()

    @cached_property
    def slope(self) -> list[Tensor]:
        """Return the gradient at the model's own weights, a tensor for each parameter, not to be changed."""
        return self.gradient()[1]

    def value(self) -> float:
        """Return the loss at the weights as they are now. 1 forward pass, on a CPU by the inference copy."""
        total = 0.0
        with torch.no_grad():
            for share, loss in self._losses(inference_copy(self._model, self.precision)):
                total += share * float(loss)
        return total

    def gradient(self) -> tuple[float, list[Tensor]]:
        """Return the loss at the weights as they are now, and its gradient. 1 forward and backward pass."""
        total, sums = 0.0, [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        for share, loss in self._losses(self._model):
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
            torch._foreach_add_(sums, gradients, alpha=share)
            total += share * float(loss.detach())
        return total, sums

    def hessian_products(self, vectors: Sequence[Tensor]) -> Iterator[tuple[float, list[Tensor]]]:
        """Yield, batch by batch, the batch's share of the images and its Hessian times each of `vectors`.

        A vector is flat, of the weights' number; so are the products. Their mean weighted by the shares is the Hessian
        times the vectors. The gradient is built once a batch and differentiated again for each vector.
        """
        if self.precision == "bf16":
            raise InputError("precision is bf16, in which rounding hides second derivatives: give fp32 or fp64")
        directions = [self.unflatten(vector) for vector in vectors]
        for share, loss in self._losses(self._model):
            slopes = torch.autograd.grad(
                loss, self.parameters, create_graph=True, allow_unused=True, materialize_grads=True
            )
            curved = [i for i, slope in enumerate(slopes) if slope.requires_grad]
            yield share, [self._differentiate(slopes, curved, direction) for direction in directions]

    def hessian_product(self, vector: Tensor) -> Tensor:
        """Return the Hessian, at the weights as they are now, times a flat vector."""
        total = torch.zeros_like(vector)
        for share, (product,) in self.hessian_products([vector]):
            total.add_(product, alpha=share)
        return total

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of a flat vector in the parameters' shapes and memory layouts."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [torch.empty_like(p).copy_(v.view(p.shape)) for p, v in zip(self.detached(), parts, strict=True)]

    def detached(self) -> list[Tensor]:
        """Return the weights outside of any graph."""
        return [p.detach() for p in self.parameters]

    def _differentiate(self, slopes: Sequence[Tensor], curved: list[int], direction: list[Tensor]) -> Tensor:
        """Return the derivative of <slopes, direction>, flat; `curved` are the slopes that depend on the weights."""
        if not curved:
            return torch.cat([torch.zeros_like(p).flatten() for p in self.detached()])
        products = torch.autograd.grad(
            [slopes[i] for i in curved],
            self.parameters,
            [direction[i] for i in curved],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([product.flatten() for product in products])

    def _losses(self, model: nn.Module) -> Iterator[tuple[float, Tensor]]:
        """Yield each batch's share of the images, and its mean loss under a form of the model."""
        batches = zip(self._split.images.split(self.batch_size), self._split.labels.split(self.batch_size), strict=True)
        for images, labels in batches:
            inputs = self._predictor.normalize(images)
            with autocast(self.precision, inputs.device):
                outputs = model(inputs)
            yield len(labels) / self.count, self._loss(outputs.to(dtype(self.precision)), labels)


def _copy_of(predictor: Predictor) -> nn.Module:
    """Return a copy of the model in evaluation mode, in which every parameter requires a gradient."""
    model = copy.deepcopy(predictor.model)
    place(model, predictor.device, predictor.precision, channels_last=predictor.channels_last)
    for parameter in model.parameters():
        parameter.requires_grad_().grad = None
    return model.eval()


def check_number(least: float, **values: float) -> None:
    """Raise `InputError` for a number below `least`, or not finite."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise InputError(f"{name} is {value}: give a finite number of at least {least:g}")
