"""An exported network as an ONNX graph, built node by node from its modules.

Building it takes about half a second, and needs nothing of torch's exporter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from flatnext.deploy.export_network import Affine, ExportedNetwork
from flatnext.deploy.manifest import KEY, Manifest
from flatnext.deploy.onnx_model import INPUT, OUTPUTS
from flatnext.models.network import Network
from flatnext.models.resnet import BasicBlock, PreActBlock
from flatnext.models.resnext import Block
from flatnext.models.selective_kernel import SelectiveKernel, SelectiveKernelBlock
from flatnext.models.shortcut import PaddedShortcut
from flatnext.ops.merge import MergeGroups
from flatnext.pictures import PAD
from flatnext.versions import import_extra, version_of

OPSET = 18
"""The first that resizes with antialiasing."""

GROUP_WIDTH = 16
"""Narrower groups are put together up to so many channels: ONNX Runtime's kernels are slow on narrow ones."""

IR_VERSION = 8
"""The format of opset 18, which ONNX Runtime reads from 1.14 on."""


def onnx_model(network: ExportedNetwork, manifest: Manifest) -> Any:
    """Return the network as an `onnx.ModelProto` with the manifest in its metadata. `InputError`: onnx is missing."""
    onnx = import_extra("onnx", "export")
    graph = _Graph(onnx)
    _answer(graph, network, manifest)
    kinds, shapes = onnx.TensorProto, dict(zip(OUTPUTS, _output_shapes(network), strict=True))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "flatnext",
            [onnx.helper.make_tensor_value_info(INPUT, kinds.UINT8, ["N", manifest.channels, "H", "W"])],
            [onnx.helper.make_tensor_value_info(name, kinds.FLOAT, shapes[name]) for name in OUTPUTS],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="flatnext",
        producer_version=version_of("flatnext"),
        doc_string=manifest.name,
    )
    with_manifest(model, manifest)
    onnx.checker.check_model(model, full_check=True)
    return model


def with_manifest(model: Any, manifest: Manifest) -> bytes:
    """Put a manifest into an ONNX model in place of the one it has, and return the content of its file."""
    import_extra("onnx", "export").helper.set_model_props(model, {KEY: manifest.to_json()})
    return model.SerializeToString()


def _output_shapes(network: ExportedNetwork) -> tuple[list[str | int], ...]:
    side, classes = network.image_size // network.net.downsampling, network.net.linear.out_features
    return ["N", classes], ["N", classes], ["N", side, side]


class _Graph:
    """The nodes and constants of a graph that is being built. A value is known by its name."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, name: str = "", output: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return that."""
        name = name or f"{kind}_{len(self.nodes)}"
        output = output or f"{name}_output"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        return output

    def constant(self, value: Any, name: str = "") -> str:
        """Add a tensor, a float32 array, or integers (int64), and return its name."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        array = np.asarray(array, dtype=np.float32 if array.dtype.kind == "f" else np.int64, order="C")
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name


def _answer(graph: _Graph, network: ExportedNetwork, manifest: Manifest) -> None:
    """Add all of it, from the images to the three outputs."""
    pixels = _resized(graph, manifest)
    centred = graph.node("Sub", pixels, graph.constant(network.shift))
    features = _network(graph, network.net, graph.node("Div", centred, graph.constant(network.scale)))
    pooled = graph.node("ReduceMean", features, graph.constant([2, 3]), keepdims=0, name="pool")
    weight = graph.constant(network.net.linear.weight, "linear.weight")
    bias = graph.constant(network.net.linear.bias, "linear.bias")
    logits, probabilities, activation = OUTPUTS
    graph.node("Gemm", pooled, weight, bias, transB=1, name="linear", output=logits)
    scaled = graph.node("Div", logits, graph.constant(float(network.temperature)))
    graph.node("Softmax", scaled, axis=1, output=probabilities)
    chosen = graph.node("Gather", weight, graph.node("ArgMax", logits, axis=1, keepdims=0), axis=0)
    weighted = graph.node("Mul", features, graph.node("Unsqueeze", chosen, graph.constant([2, 3])))
    heat = graph.node("Relu", graph.node("ReduceSum", weighted, graph.constant([1]), keepdims=0))
    largest = graph.node("ReduceMax", heat, graph.constant([1, 2]), keepdims=1)
    tiny = graph.constant(float(np.finfo(np.float32).tiny))
    graph.node("Div", heat, graph.node("Max", largest, tiny), output=activation)


def _resized(graph: _Graph, manifest: Manifest) -> str:
    """Add what `ExportedNetwork.resized` does to the input, and return the pixels in float32."""
    shape, images = graph.node("Shape", INPUT), INPUT
    height, width = (graph.node("Gather", shape, graph.constant([axis])) for axis in (2, 3))
    if manifest.resize != "stretch":
        side = graph.node("Min" if manifest.resize == "crop" else "Max", height, width)
        images = (_cropped if manifest.resize == "crop" else _padded)(graph, height, width, side)
    size = graph.constant([manifest.image_size] * 2)
    sizes = graph.node("Concat", graph.node("Gather", shape, graph.constant([0, 1])), size, axis=0)
    pixels = graph.node("Cast", images, to=graph.onnx.TensorProto.FLOAT)
    # As torch and Pillow do, the filter leaves out what lies beyond the edges; ONNX's default repeats the edge pixels.
    filtering: dict[str, Any] = {"mode": "linear", "antialias": 1, "exclude_outside": 1}
    resized = graph.node("Resize", pixels, "", "", sizes, name="resize", **filtering)
    # ONNX rounds half to even, as torch does.
    return graph.node("Clip", graph.node("Round", resized), graph.constant(0.0), graph.constant(255.0))


def _half_difference(graph: _Graph, larger: str, smaller: str) -> str:
    return graph.node("Div", graph.node("Sub", larger, smaller), graph.constant([2]))


def _cropped(graph: _Graph, height: str, width: str, side: str) -> str:
    """Add the cut of the square in the middle."""
    starts = graph.node("Concat", *(_half_difference(graph, each, side) for each in (height, width)), axis=0)
    return graph.node("Slice", INPUT, starts, graph.node("Add", starts, side), graph.constant([2, 3]))


def _padded(graph: _Graph, height: str, width: str, side: str) -> str:
    """Add the bars that make a square."""
    before = [_half_difference(graph, side, each) for each in (height, width)]
    after = [
        graph.node("Sub", graph.node("Sub", side, each), half)
        for each, half in zip((height, width), before, strict=True)
    ]
    none = graph.constant([0, 0])
    pads = graph.node("Concat", none, *before, none, *after, axis=0)
    graph.constants.append(graph.onnx.numpy_helper.from_array(np.array(PAD, dtype=np.uint8), "bars"))
    return graph.node("Pad", INPUT, pads, "bars")


def _network(graph: _Graph, net: Network, x: str) -> str:
    """Add the network up to what is pooled."""
    x = _convolution(graph, net.conv1, "conv1", x, relu=not net.preactivated)
    for name in net.stages:
        for index, block in enumerate(cast(nn.Sequential, net.get_submodule(name))):
            x = _BLOCKS[type(block)](graph, block, f"{name}.{index}", x)
    return _affine(graph, cast(Affine, net.bn), "bn", x) if net.preactivated else x


def _convolution(graph: _Graph, conv: nn.Conv2d, name: str, x: str, *, relu: bool) -> str:
    together = _together(conv)
    weight = conv.weight.detach()
    if together > 1:
        weight = MergeGroups.apply(weight, conv.groups, together, weight.dtype)
    inputs = [x, graph.constant(weight, f"{name}.weight")]
    if conv.bias is not None:
        inputs.append(graph.constant(conv.bias, f"{name}.bias"))
    (top, left), dilations, strides = cast(tuple[int, int], conv.padding), conv.dilation, conv.stride
    y = graph.node(
        *("Conv", *inputs),
        name=name,
        kernel_shape=list(conv.kernel_size),
        strides=list(strides),
        pads=[top, left, top, left],
        dilations=list(dilations),
        group=conv.groups // together,
    )
    return graph.node("Relu", y, name=f"{name}.relu") if relu else y


def _together(conv: nn.Conv2d) -> int:
    """Return how many neighbouring groups become one, with zeros between them."""
    width = conv.in_channels // conv.groups
    return max(n for n in range(1, conv.groups + 1) if conv.groups % n == 0 and (n == 1 or n * width <= GROUP_WIDTH))


def _affine(graph: _Graph, affine: Affine, name: str, x: str) -> str:
    """Add a scale, a shift and ReLU."""
    scaled = graph.node("Mul", x, graph.constant(affine.scale, f"{name}.scale"), name=f"{name}.mul")
    shifted = graph.node("Add", scaled, graph.constant(affine.shift, f"{name}.shift"), name=f"{name}.add")
    return graph.node("Relu", shifted, name=f"{name}.relu")


def _shortcut(graph: _Graph, shortcut: nn.Module, name: str, x: str) -> str:
    if isinstance(shortcut, nn.Conv2d):
        return _convolution(graph, shortcut, name, x, relu=False)
    if isinstance(shortcut, PaddedShortcut):
        if shortcut.stride != 1:
            square = [shortcut.stride] * 2
            x = graph.node("AveragePool", x, kernel_shape=square, strides=square, name=f"{name}.pool")
        pads = graph.constant([0, 0, 0, 0, 0, shortcut.added, 0, 0])
        return graph.node("Pad", x, pads, name=f"{name}.pad") if shortcut.added else x
    assert isinstance(shortcut, nn.Sequential)  # a `Shortcut`, or the empty one of a `PreActBlock`
    return _convolution(graph, cast(nn.Conv2d, shortcut[0]), name, x, relu=False) if len(shortcut) else x


def _added(graph: _Graph, y: str, block: nn.Module, name: str, x: str) -> str:
    """Add the shortcut of a block to what its convolutions give, and ReLU."""
    shortcut = _shortcut(graph, block.get_submodule("shortcut"), f"{name}.shortcut", x)
    return graph.node("Relu", graph.node("Add", y, shortcut, name=f"{name}.add"), name=f"{name}.relu")


def _bottleneck(graph: _Graph, block: Any, name: str, x: str) -> str:
    y = _convolution(graph, block.conv1, f"{name}.conv1", x, relu=True)
    if isinstance(block.conv2, SelectiveKernel):
        y = _selective_kernel(graph, block.conv2, f"{name}.conv2", y)
    else:
        y = _convolution(graph, block.conv2, f"{name}.conv2", y, relu=True)
    return _added(graph, _convolution(graph, block.conv3, f"{name}.conv3", y, relu=False), block, name, x)


def _basic(graph: _Graph, block: Any, name: str, x: str) -> str:
    y = _convolution(graph, block.conv1, f"{name}.conv1", x, relu=True)
    return _added(graph, _convolution(graph, block.conv2, f"{name}.conv2", y, relu=False), block, name, x)


def _preactivated(graph: _Graph, block: Any, name: str, x: str) -> str:
    active = _affine(graph, block.bn1, f"{name}.bn1", x)
    y = _convolution(graph, block.conv1, f"{name}.conv1", active, relu=True)
    y = _convolution(graph, block.conv2, f"{name}.conv2", y, relu=False)
    shortcut = _shortcut(graph, block.shortcut, f"{name}.shortcut", active if block.projects else x)
    return graph.node("Add", y, shortcut, name=f"{name}.add")


def _selective_kernel(graph: _Graph, layer: SelectiveKernel, name: str, x: str) -> str:
    narrow = _convolution(graph, layer.conv1, f"{name}.conv1", x, relu=True)
    wide = _convolution(graph, layer.conv2, f"{name}.conv2", x, relu=True)
    pooled = graph.node("ReduceMean", graph.node("Add", narrow, wide), graph.constant([2, 3]), keepdims=1)
    hidden = _convolution(graph, layer.fuse, f"{name}.fuse", pooled, relu=True)
    select = _convolution(graph, layer.select, f"{name}.select", hidden, relu=False)
    both = graph.node("Reshape", select, graph.constant([0, 2, -1, 1, 1]))
    share = graph.node("Gather", graph.node("Softmax", both, axis=1), graph.constant(0), axis=1)
    return graph.node("Add", wide, graph.node("Mul", share, graph.node("Sub", narrow, wide)))


_BLOCKS: dict[type[nn.Module], Callable[[_Graph, Any, str, str], str]] = {
    Block: _bottleneck,
    SelectiveKernelBlock: _bottleneck,
    BasicBlock: _basic,
    PreActBlock: _preactivated,
}
