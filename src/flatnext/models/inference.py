"""Copies of a network for inference: in any precision (`for_inference`), and as a faster stand-in on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatnext.device import keep_digits, keep_memory, resolve_precision
from flatnext.errors import InputError
from flatnext.models.folded import InferenceNet, changed, folded
from flatnext.models.network import Network
from flatnext.models.quantized import quantize
from flatnext.models.resnext import ResNeXt

PRECISIONS = ("auto", "fp32", "bf16", "int8")


def for_inference(model: nn.Module, precision: str = "auto", calibration: Tensor | None = None) -> InferenceNet:
    """Return a copy of a network for inference alone; the model and its mode are left as they are.

    The copy maps images (N, C, H, W), normalised as in training, to float32 logits (N, classes), as `model.eval()`
    does, whichever mode the model is in: running statistics are folded into the weights in float64. It takes any batch
    and any image size that the model takes, gives gradients by the images alone (not in int8), and stays on the
    model's device. On a CPU the process keeps freed memory from then on (`flatnext.device.keep_memory`): to ask for it
    again would take a quarter of the time.

    Args:
        model: `ResNeXt`, `Network` with block resnext or basic, or `resnet50` and `resnext50_32x4d` of
            `models.imagenet`.
        precision: of weights and activations up to the pooling; the linear layer is always float32. `fp32`; `bf16`;
            `int8` (CPUs with int8 dot products), with one scale a channel for weights and one a layer for activations,
            but for padded shortcuts;
            `auto`: bf16 where the device is faster in it, which a CPU is asked once in a process, else fp32.
        calibration: for int8, some hundreds of images such as the network will see (N, C, H, W), normalised. Their
            activations set the scales. They need no labels.

    Raises:
        InputError: unknown precision, a model of another kind, int8 without images or on a CPU that lacks it.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}: choose {', '.join(PRECISIONS)}")
    if (precision == "int8") != (calibration is not None):
        raise InputError("calibration is for precision int8, which needs it: give both or neither")
    net = folded(model)
    if net.linear.weight.device.type == "cpu":
        keep_memory()
    if calibration is not None:
        return quantize(net, calibration)
    device = net.linear.weight.device
    precision = resolve_precision(precision, device)
    keep_digits(precision)
    for module in (net.stem, net.blocks):
        module.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    return net


def inference_copy(model: nn.Module, precision: str) -> nn.Module:
    """Return a faster copy of a `Network` on a CPU, with the model's logits in evaluation mode, to rounding.

    The copy has the weights of this moment. The model itself is returned on other devices, in float64, for weights that
    are not finite (the fused ReLU turns NaN into a number), for blocks that `for_inference` does not support, and for
    models that were changed.
    """
    if precision not in ("fp32", "bf16") or type(model) not in (Network, ResNeXt):
        return model
    if changed(model):
        return model
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    if any(tensor.device.type != "cpu" or not bool(tensor.isfinite().all()) for tensor in tensors):
        return model
    return for_inference(model, precision)
