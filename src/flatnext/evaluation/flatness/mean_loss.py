"""The mean loss on a fixed set of images as a function of a model's weights: its value, gradient and curvature."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext.data import Normalization, Split, batches
from flatnext.device import autocast, dtype, place
from flatnext.errors import InputError
from flatnext.models import answering_form

Progress = Callable[[int, int], None]
"""Called with how much of a measure is done, and how much there is at most: points, radii, steps or probes."""


class MeanLoss:
    """Mean cross-entropy of a model in evaluation mode on all images of a split, none augmented.

    It is the loss of the data alone: without weight decay, and without the label smoothing or mixing of training.
    Measure on training images, since it is their loss that was made small. A copy of the model is worked on; the model
    keeps its weights, gradients, mode and buffers. All of its parameters count, whether they require a gradient or not.

    In bf16 a change of the loss is off by a few thousandths, as outputs and small changes of weights are rounded: rises
    that are as small need fp32, and the Hessian is not given in bf16.

    Args:
        model: maps images (N, 3, H, W), normalised, to outputs (N, ...).
        split: the images and labels.
        mean: what the images are normalised by, a channel each, in units of [0, 1] pixels, as in training.
        std: as `mean`.
        device: where to work, if not where the model is; the copy and the images are moved there.
        precision: `fp32`, `bf16` or `fp64`.
        channels_last: memory layout of the images and weights.
        batch_size: images at a time; the results depend on it by rounding only. A Hessian-vector product needs three
            times the memory of a gradient: of ResNeXt-29 in fp32, on a CPU, 0.12 GB an image.
        loss: of outputs and labels, a mean over the images.

    Raises:
        InputError: no images, a model without parameters, or an unknown setting.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str | None = None,
        precision: str = "fp32",
        channels_last: bool = True,
        batch_size: int = 32,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        if precision not in ("fp32", "bf16", "fp64"):
            raise InputError(f"precision is {precision!r}: choose fp32, bf16 or fp64")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: give at least 1")
        if not len(split):
            raise InputError("there are no images to measure the loss on: give at least one")
        first = next(model.parameters(), None)
        if first is None:
            raise InputError("the model has no parameters: give one whose weights can be moved")
        self.device = first.device if device is None else torch.device(device)
        self.precision, self.channels_last = precision, channels_last
        self.batch_size, self._mean, self._std, self._function = batch_size, mean, std, loss
        self._split = split.to(self.device)
        self._model = _copy_of(model, self.device, precision, channels_last)
        self.parameters: list[Tensor] = list(self._model.parameters())
        self._clean: float | None = None
        self._slope: list[Tensor] | None = None

    @property
    def count(self) -> int:
        """Return the number of images."""
        return len(self._split)

    @property
    def dimension(self) -> int:
        """Return the number of weights."""
        return sum(p.numel() for p in self.parameters)

    @property
    def clean(self) -> float:
        """Return the loss at the model's own weights; worked out once."""
        if self._clean is None:
            self._clean = self.value()
        return self._clean

    @property
    def slope(self) -> list[Tensor]:
        """Return the gradient at the model's own weights, a tensor a parameter, not to be changed; worked out once."""
        if self._slope is None:
            _, self._slope = self.gradient()
        return self._slope

    def value(self) -> float:
        """Return the loss at the weights as they are now. 1 forward pass, on a CPU by `models.answering_form`."""
        total = 0.0
        with torch.no_grad():
            for share, loss in self._losses(answering_form(self._model, self.precision)):
                total += share * float(loss)
        return total

    def gradient(self) -> tuple[float, list[Tensor]]:
        """Return the loss at the weights as they are now, and its gradient. 1 forward and backward pass."""
        total, sums = 0.0, [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        for share, loss in self._losses(self._model):
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
            torch._foreach_add_(sums, found, alpha=share)
            total += share * float(loss.detach())
        return total, sums

    def hessian_products(self, vectors: Sequence[Tensor]) -> Iterator[tuple[float, list[Tensor]]]:
        """Yield, batch by batch, the batch's share of the images and its Hessian times each of `vectors`.

        A vector is flat, of the weights' number; so are the products. Their mean weighted by the shares is the Hessian
        times the vectors. The gradient is built once a batch and differentiated again for each vector.
        """
        if self.precision == "bf16":
            raise InputError("precision is bf16, in which second derivatives drown in rounding: give fp32 or fp64")
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
        for images, labels in batches(
            self._split,
            batch_size=self.batch_size,
            normalization=Normalization(tuple(self._mean), tuple(self._std)),
            device=self.device,
            dtype=dtype(self.precision),
            channels_last=self.channels_last,
        ):
            with autocast(self.precision, self.device):
                outputs = model(images)
            yield len(labels) / self.count, self._function(outputs.to(dtype(self.precision)), labels)


def _copy_of(model: nn.Module, device: torch.device, precision: str, channels_last: bool) -> nn.Module:
    """Return a copy of the model in evaluation mode, in which every parameter requires a gradient."""
    duplicate = copy.deepcopy(model)
    place(duplicate, device, precision, channels_last=channels_last)
    for parameter in duplicate.parameters():
        parameter.requires_grad_().grad = None
    return duplicate.eval()


def finite(value: float) -> float | None:
    """Return a number that `json` can write: None where it is not finite."""
    return value if math.isfinite(value) else None


def check_number(least: float, **values: float) -> None:
    """Raise `InputError` for a number below `least`, or not finite."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise InputError(f"{name} is {value}: give a finite number of at least {least:g}")


def report(progress: Progress | None, done: int, total: int) -> None:
    """Call `progress` if there is one."""
    if progress is not None:
        progress(done, total)
