"""Where in an image a network saw a class: Grad-CAM (Selvaraju et al., arXiv 1610.02391)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext.data import Split
from flatnext.device import autocast
from flatnext.errors import InputError
from flatnext.evaluation.metrics import most_confident_errors, png
from flatnext.evaluation.predictor import Predictor, evaluation_mode
from flatnext.models import Network
from flatnext.runs.evidence import ExplainedMistake

COLOURS = "inferno"  # perceptually uniform; its yellow stands out from bright images better than magma's
OPACITY = 0.6  # of the colours over the image


def grad_cam(
    predictor: Predictor, images: Tensor, classes: Tensor, *, layer: nn.Module | None = None, batch_size: int = 32
) -> Tensor:
    """Return a heat map for each image (N x H x W, float32, on the CPU) of what speaks for its class, in [0, 1].

    The layer's channels are summed, each weighted by the mean over its pixels of the gradient of the class's logit;
    what is negative becomes zero; the map is enlarged to the image (bilinear) and divided by its largest value. So
    maps of two images say nothing of which is stronger. A map is zero throughout where nothing speaks for the class.

    It costs one forward pass and one backward pass, from the logits to the layer. The model runs in evaluation mode,
    where it is, and is left as it was: modes, gradients, buffers and hooks, also on an error.

    Args:
        predictor: the model and its normalisation.
        images: uint8, N x C x H x W.
        classes: int64, N: the class to explain, for each image.
        layer: a module of the model, whose output is (N, channels, h, w); if it runs more than once, its last run
            counts. By default the last stage of a `Network`, whose output is pooled (with block preact it is what goes
            into the last batch norm). Any other model needs it: give the last layer before the pooling.
        batch_size: images at a time.

    Raises:
        InputError: shapes or classes that do not fit, no layer, a layer without gradient, or outputs not finite.
    """
    if classes.dtype != torch.int64 or classes.shape != images.shape[:1]:
        raise InputError(f"classes are {classes.dtype} {tuple(classes.shape)}: give torch.int64, ({len(images)},)")
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}: give at least 1")
    layer = _layer_of(predictor.model, layer)
    split = Split(images, classes)
    if not len(split):
        return torch.zeros(0, *images.shape[2:])
    maps = []
    with torch.inference_mode(False), evaluation_mode(predictor.model):
        for batch, wanted in zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True):
            inputs = predictor.normalize(batch)
            with autocast(predictor.precision, inputs.device):
                activation, logits = _run(predictor.model, layer, inputs)
            gradient = _gradient(activation, logits, wanted.to(logits.device))
            maps.append(_heat(activation, gradient, inputs.shape[2:]).float().cpu())
    return torch.cat(maps)


def overlay(image: Tensor, heat: Tensor) -> bytes:
    """Return a PNG file of the size of `image` (uint8, C x H x W): its grey values under the colours of `heat`.

    `heat` is H x W, from 0 (black, violet) to 1 (yellow). The image's own colours are left out, so that every
    colour is the map's.
    """
    from matplotlib import colormaps  # a quarter of a second to import

    if image.ndim != 3 or heat.shape != image.shape[1:]:
        raise InputError(f"image is {tuple(image.shape)} and heat {tuple(heat.shape)}: give C x H x W and H x W")
    luma = [0.299, 0.587, 0.114] if len(image) == 3 else [1.0]  # of ITU-R BT.601, as Pillow's
    weights = torch.tensor(luma).view(-1, 1, 1)
    grey = (image.cpu() * weights).sum(dim=0, keepdim=True)
    colours = torch.from_numpy(colormaps[COLOURS](heat.cpu().numpy())[..., :3] * 255).permute(2, 0, 1)
    return png(torch.lerp(grey, colours.float(), OPACITY).round().to(torch.uint8))


def explained_mistakes(
    predictor: Predictor, logits: Tensor, split: Split, most: int = 12
) -> tuple[ExplainedMistake, ...]:
    """Return `most_confident_errors` with two `overlay`s: `cam` of the predicted class, `cam_label` of the true.

    `logits` (N x classes) are the predictor's for `split`; the errors are those of `grad_cam`.
    """
    mistakes = most_confident_errors(logits, split, most)
    if not mistakes:
        return ()
    images = split.images[torch.tensor([mistake.index for mistake in mistakes], device=split.images.device)]

    def pictures(classes: list[int]) -> list[str]:
        maps = grad_cam(predictor, images, torch.tensor(classes, device=images.device))
        return [base64.b64encode(overlay(*pair)).decode() for pair in zip(images, maps, strict=True)]

    predicted = pictures([mistake.predicted for mistake in mistakes])
    labels = pictures([mistake.label for mistake in mistakes])
    return tuple(
        ExplainedMistake(**vars(mistake), cam=cam, cam_label=cam_label)
        for mistake, cam, cam_label in zip(mistakes, predicted, labels, strict=True)
    )


def _layer_of(model: nn.Module, layer: nn.Module | None) -> nn.Module:
    if layer is None:
        if not isinstance(model, Network):
            raise InputError(
                f"layer is not given, and {type(model).__name__} has no stages: give its last one as layer"
            )
        return model.get_submodule(model.stages[-1])
    if all(module is not layer for module in model.modules()):
        raise InputError(f"layer is a {type(layer).__name__} that is not in the model: give one of model.modules()")
    return layer


def _run(model: nn.Module, layer: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer's output, as a leaf of the graph, and the logits that follow from it."""
    seen: list[Tensor] = []

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4 or len(output) != len(inputs):
            what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(f"layer gives {what}: give one whose output is ({len(inputs)}, channels, h, w)")
        torch.set_grad_enabled(True)  # only what follows the layer is recorded
        seen[:] = [output.detach().requires_grad_()]
        return seen[0].clone()  # which what follows may change in place

    handle = layer.register_forward_hook(cut)
    try:
        with torch.no_grad():
            logits = model(inputs)
    finally:
        handle.remove()
    if not seen:
        raise InputError("layer does not run when the model does: give another")
    return seen[0], logits


def _gradient(activation: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
    """Return the gradient of each image's logit of its class by the layer's output."""
    if logits.ndim != 2 or not 0 <= int(classes.min()) <= int(classes.max()) < logits.shape[1]:
        raise InputError(f"classes are outside those of the logits {tuple(logits.shape)}: give 0 to classes - 1")
    if not bool(logits.isfinite().all()):
        raise InputError("a logit is not finite: the training diverged; choose another checkpoint")
    gradient = None
    if logits.requires_grad:
        wanted = F.one_hot(classes, logits.shape[1]).to(logits)
        (gradient,) = torch.autograd.grad(logits, activation, wanted, allow_unused=True)
    if gradient is None:
        raise InputError("layer has no gradient: give the model as trained, and a layer that its logits depend on")
    return gradient


def _heat(activation: Tensor, gradient: Tensor, size: Sequence[int]) -> Tensor:
    """Return the maps (N x H x W) from a layer's output and gradient (N x channels x h x w)."""
    exact = torch.promote_types(activation.dtype, torch.float32)
    weights = gradient.to(exact).mean(dim=(2, 3), keepdim=True)
    heat = (weights * activation.detach().to(exact)).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    largest = heat.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, heat / largest, 0.0)
