"""Models to attack whose answers are known or that are small, and their images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
SIDE = 6


def linear(classes, seed=0):
    """Return a linear model in double precision, its weights and bias by pixels in [0, 1], and images it gets right."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(model[1].weight.shape, generator=generator, dtype=torch.float64))
        model[1].bias.copy_(torch.randn(classes, generator=generator, dtype=torch.float64))
        weight, bias = model[1].weight.clone(), model[1].bias.clone()
    std = torch.tensor(STD, dtype=torch.float64).repeat_interleave(SIDE * SIDE)
    mean = torch.tensor(MEAN, dtype=torch.float64).repeat_interleave(SIDE * SIDE)
    by_pixel = weight / std
    images = 0.3 + 0.4 * torch.rand(60, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    offset = bias - by_pixel @ mean
    labels = (images.flatten(1) @ by_pixel.T + offset).argmax(1)
    labels[::10] = (labels[::10] + 1) % classes  # some that are wrong from the start
    return model, by_pixel, offset, images, labels


def margins(by_pixel, offset, images, labels, norm):
    """Return the radius within which each image is safe, the box aside: margin over the dual norm (closed form)."""
    found = []
    for x, y in zip(images.flatten(1), labels, strict=True):
        radii = []
        for j in range(len(offset)):
            if j != y:
                normal = by_pixel[y] - by_pixel[j]
                dual = normal.abs().sum() if norm == "linf" else normal.square().sum().sqrt()
                radii.append(float((normal @ x + offset[y] - offset[j]) / dual))
        found.append(min(radii))
    return np.array(found)


def between(radii, share=0.5):
    """Return a budget in 1/255 in the widest gap near a quantile of the radii, so that rounding decides nothing."""
    positive = np.sort(radii[radii > 0])
    at = int(share * len(positive))
    near = range(max(at - 4, 1), min(at + 4, len(positive)))
    best = max(near, key=lambda i: positive[i] - positive[i - 1])
    return 255 * (positive[best] + positive[best - 1]) / 2


def tiny_net(classes=5, seed=1, gain=3.0):
    """Return a small network that is not linear, with batch norm and dropout, and images with its own answers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Dropout(0.5)),
            *(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, classes)),
        )
        images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
        model[1].running_mean.normal_(std=0.1)
    with torch.no_grad():
        model[-1].weight.mul_(gain)
    model.eval()
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (MEAN, STD))
    with torch.no_grad():
        labels = model((images / 255 - mean) / std).argmax(1)
    return model, images, labels
