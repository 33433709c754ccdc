"""An ONNX graph in eight bits: convolutions and additions of the blocks, by scales from real images.

The graph says so by pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime turns into operators on integers.
Activations are uint8 with one scale a tensor, weights int8 with one a channel, biases int32. The stem, the pooling and
the linear layer stay in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from flatnext.deploy.export_proof import batch_size
from flatnext.deploy.onnx_model import INPUT, session
from flatnext.models.quantized import Scale
from flatnext.versions import import_extra

LARGEST = 127  # of a weight


def quantized(model: Any, images: np.ndarray) -> Any:
    """Return the eight-bit form of `export_graph.onnx_model`'s result, an `onnx.ModelProto` too.

    Args:
        model: the graph in float32; it is left as it is.
        images: uint8, N x C x H x W, such as the network will see. Their activations set the scales.
    """
    result = type(model)()
    result.CopyFrom(model)
    chosen = [node for node in result.graph.node if _is_chosen(node)]
    _Rewriting(result.graph, chosen).apply(_ranges(model, _activations(result.graph, chosen), images))
    return result


def _is_chosen(node: Any) -> bool:
    """Return whether a node is a convolution in a block, or the addition of a block's shortcut."""
    stage, *path = node.name.split(".")
    return stage.startswith("layer") and (node.op_type == "Conv" or (len(path) == 2 and path[1] == "add"))


def _activations(graph: Any, chosen: Iterable[Any]) -> list[str]:
    """Return the activations that are quantized: what goes into a chosen node."""
    constants = {constant.name for constant in graph.initializer}
    return sorted({name for node in chosen for name in node.input if name not in constants})


def _ranges(model: Any, names: list[str], images: np.ndarray) -> dict[str, Scale]:
    """Return the scale of each named activation, by its range over the images."""
    onnx = import_extra("onnx", "export")
    probe = type(model)()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    for name in names:
        for kind in ("ReduceMin", "ReduceMax"):
            probe.graph.node.append(onnx.helper.make_node(kind, [name], [f"{name}.{kind}"], keepdims=0))
            probe.graph.output.append(onnx.helper.make_tensor_value_info(f"{name}.{kind}", onnx.TensorProto.FLOAT, []))
    running = session(probe.SerializeToString(), "the graph")
    size = batch_size(images)
    batches = [images[start : start + size] for start in range(0, len(images), size)]
    ranges = np.array([running.run(None, {INPUT: batch}) for batch in batches]).reshape(len(batches), len(names), 2)
    lows, highs = ranges[:, :, 0].min(axis=0), ranges[:, :, 1].max(axis=0)
    return {name: Scale.of_range(float(low), float(high)) for name, low, high in zip(names, lows, highs, strict=True)}


class _Rewriting:
    """The change of a graph (`onnx.GraphProto`) whose nodes `chosen` shall compute on integers."""

    def __init__(self, graph: Any, chosen: list[Any]) -> None:
        self.onnx = import_extra("onnx", "export")
        self.graph, self.chosen = graph, chosen
        self.constants = {constant.name: constant for constant in graph.initializer}
        self.before: dict[str, list[Any]] = {}
        self.after: dict[str, list[Any]] = {}

    def apply(self, scales: dict[str, Scale]) -> None:
        """Quantize activations, weights and biases, and put the new nodes where they belong."""
        for name, scale in scales.items():
            arguments = self._scale(name, scale)
            self.after[name] = [self._node("QuantizeLinear", name, *arguments, output=f"{name}.q")]
        for node in self.chosen:
            self.before[node.name] = []
            for place, name in enumerate(node.input):
                if name in scales:
                    node.input[place] = self._dequantized(node, f"{name}.q", *self._scale(name, scales[name]))
            if node.op_type == "Conv":
                self._quantize_weights(node, scales)
        self._insert()

    def _quantize_weights(self, node: Any, scales: dict[str, Scale]) -> None:
        activation = node.input[0].partition(" for ")[0].removesuffix(".q")
        # A convolution has no bias where no batch norm follows it that could be folded into it.
        weight, *bias = (self.onnx.numpy_helper.to_array(self.constants[name]) for name in node.input[1:])
        limit = 2**31 - 128
        scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / LARGEST, 1e-12)
        for b in bias:  # of a channel whose weights are nearly zero: its bias counts in the same unit, and must fit
            scale = np.maximum(scale, np.abs(b.astype(np.float64)) / (scales[activation].scale * limit))
        scale = scale.astype(np.float32)
        whole = np.round(weight / scale[:, None, None, None]).astype(np.int8)
        of_sum = scale * np.float32(scales[activation].scale)
        shifts = [np.clip(np.round(b.astype(np.float64) / of_sum), -limit, limit).astype(np.int32) for b in bias]
        parts = zip((whole, *shifts), (scale, of_sum), strict=False)
        for place, (values, factor) in enumerate(parts, start=1):
            name = node.input[place]
            self.graph.initializer.remove(self.constants.pop(name))
            zero = np.zeros(len(factor), dtype=values.dtype)
            names = [
                self._constant(f"{name}.{part}", v) for part, v in (("q", values), ("scale", factor), ("zero", zero))
            ]
            node.input[place] = self._dequantized(node, *names, axis=0)

    def _scale(self, name: str, scale: Scale) -> tuple[str, str]:
        """Return the names of the constants of an activation's scale."""
        value, zero = np.array(scale.scale, np.float32), np.array(scale.zero, np.uint8)
        return self._constant(f"{name}.scale", value), self._constant(f"{name}.zero", zero)

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = self.onnx.numpy_helper.from_array(value, name)
            self.graph.initializer.append(self.constants[name])
        return name

    def _dequantized(self, node: Any, *inputs: str, **attributes: int) -> str:
        output = f"{inputs[0]} for {node.name}"
        self.before[node.name].append(self._node("DequantizeLinear", *inputs, output=output, **attributes))
        return output

    def _node(self, kind: str, *inputs: str, output: str, **attributes: int) -> Any:
        return self.onnx.helper.make_node(kind, list(inputs), [output], name=f"{output} by {kind}", **attributes)

    def _insert(self) -> None:
        nodes = []
        for node in self.graph.node:
            nodes += [*self.before.get(node.name, ()), node]
            nodes += [new for name in node.output for new in self.after.get(name, ())]
        copies = [type(node)() for node in nodes]
        for copied, node in zip(copies, nodes, strict=True):
            copied.CopyFrom(node)
        del self.graph.node[:]
        self.graph.node.extend(copies)
