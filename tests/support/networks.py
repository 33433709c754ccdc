"""Small networks of every kind, weights and images for them, and how far two outputs are apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from flatnext.config import Model

PLAIN = {"cardinality": 1, "bottleneck_width": 8, "blocks": (2, 1), "stem": 4}
GROUPED = {"cardinality": 2, "bottleneck_width": 4, "blocks": (2, 1), "stem": 4}
PYRAMID = {"widths": "pyramid", "pyramid_alpha": 10}
VARIANTS = {
    "stem3": Model(**GROUPED, stem_kernel=3),
    "basic": Model(**PLAIN, block="basic"),
    "preact": Model(**PLAIN, block="preact", stem_kernel=3),
    "sk": Model(**GROUPED, block="sk"),
    "pyramid": Model(**GROUPED, **PYRAMID),
    "pyramid-basic": Model(**PLAIN, **PYRAMID, block="basic", stem_kernel=3),
    "pyramid-preact": Model(**PLAIN, **PYRAMID, block="preact"),
    "pyramid-sk": Model(**GROUPED, **PYRAMID, block="sk"),
}
SMALL_RESNEXT = {"blocks": (1, 2), "cardinality": 4, "bottleneck_width": 2, "stem": 8, "classes": 5}


def formula(model):
    """Set every entry of the state dict by a fixed formula, with spread enough that no error cancels."""
    start, state = 0, {}
    for name, value in model.state_dict().items():
        index = np.arange(start, start + value.numel())
        start += value.numel()
        wave = torch.from_numpy(np.cos(index * index % 10007.0)).reshape(value.shape)
        if value.ndim >= 2:
            state[name] = wave * (3 / value[0].numel()) ** 0.5
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        else:
            state[name] = 0.3 * wave + name.endswith(("weight", "running_var"))
    model.load_state_dict(state)
    return model


def images(count, size, dtype=torch.float64):
    """Return images by a fixed formula, with values from -1 to 1."""
    index = torch.arange(count * 3 * size * size, dtype=torch.float64)
    return torch.sin(index * index % 9973).reshape(count, 3, size, size).to(dtype)


def trained(model):
    """Give batch norm statistics, scales and shifts far from 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-2, 3, generator=generator)
            norm.running_var.uniform_(0.05, 6, generator=generator)
            norm.weight.data.uniform_(-0.5, 1.5, generator=generator)
            norm.bias.data.uniform_(-1, 1, generator=generator)
    return model.eval()


def error(logits, expected):
    """Return the largest difference, relative to the largest logit."""
    return float((logits - expected).abs().max() / expected.abs().max())


def plain_logits(model, images):
    with torch.no_grad():
        return model(images)
