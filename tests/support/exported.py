"""Networks with batch norm as after training, and their ONNX form."""

from __future__ import annotations

import torch
from torch import nn

from flatnext import models
from flatnext.config import Model
from flatnext.data import Normalization
from flatnext.deploy.export_graph import onnx_model, with_manifest
from flatnext.deploy.export_network import ExportedNetwork
from flatnext.deploy.manifest import Manifest
from flatnext.deploy.onnx_model import OnnxModel

CLASSES = ("ant", "bee", "cat", "dog")

SMALL = {
    "resnext": Model(blocks=(1, 1), cardinality=4, bottleneck_width=3, stem=8),
    "dense": Model(blocks=(1, 2), cardinality=1, bottleneck_width=5, stem=6, stem_kernel=3),
    "basic": Model(block="basic", blocks=(1, 2), cardinality=1, bottleneck_width=8, stem=8, stem_kernel=3),
    "preact": Model(block="preact", blocks=(2, 1), cardinality=1, bottleneck_width=8, stem=4),
    "sk": Model(block="sk", blocks=(1, 1), cardinality=4, bottleneck_width=2, stem=8),
    "pyramid": Model(blocks=(2, 2), cardinality=4, bottleneck_width=2, widths="pyramid", pyramid_alpha=16, stem=8),
}
"""A small one of every kind of block and shortcut."""


def trained(settings, *, channels=3, classes=4, seed=0):
    """Return a network whose batch norms have statistics, scales and shifts that are not those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = models.build(settings, classes, channels)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.3, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


def normalization(channels=3):
    return Normalization((0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.25)[:channels])


def manifest_of(*, channels=3, size=8, **settings):
    return Manifest(name="small", classes=CLASSES, image_size=size, channels=channels, **settings)


def exported(model, manifest):
    """Return the exported network in torch, and its graph."""
    network = ExportedNetwork(model, normalization(manifest.channels).tensors("cpu"), manifest)
    return network, onnx_model(network, manifest)


def written(graph, manifest, path):
    """Return the graph as a file, loaded."""
    path.write_bytes(with_manifest(graph, manifest))
    return OnnxModel(path, threads=1)
