"""The fused kernels against double precision, and against torch's own operations over a training run."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext import ops
from flatnext.config import Model
from flatnext.errors import FallbackWarning
from flatnext.models import build as build_model
from flatnext.models import for_inference
from flatnext.models.resnext import Block
from flatnext.ops.cpu import build, grouped, norm, outputs, pointwise

compiled = pytest.mark.skipif(ops.library() is None, reason="no compiler, or not a CPU that the kernels are for")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # relative; bf16 keeps 8 bits, so that 2 ** -8 is one rounding


def random_images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(shape, generator=generator) * 3 + 5
    return images.to(dtype, memory_format=torch.channels_last)


def relative(found: Tensor, expected: Tensor) -> float:
    difference = (found.double() - expected.double()).norm().detach()
    return float(difference / expected.double().norm().detach().clamp(min=1e-30))


def random_norm(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
        layer.bias.normal_(generator=torch.Generator().manual_seed(2))
    return layer


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that were called."""
    calls: list[str] = []
    for function in (norm._BatchNorm, grouped._GroupedConvolution, pointwise._PointwiseConvolution):
        forward = function.forward

        def counted(ctx: object, *inputs: object, forward: object = forward, name: str = function.__name__) -> Tensor:
            calls.append(name)
            return forward(ctx, *inputs)  # type: ignore[operator]

        monkeypatch.setattr(function, "forward", staticmethod(counted))
    return calls


def double_batch_norm(
    layer: nn.BatchNorm2d, x: Tensor, residual: Tensor | None, relu: bool, gradient: Tensor
) -> list[Tensor]:
    """Output, statistics and gradients in double precision, by the definition."""
    leaves = [t.detach().double().requires_grad_() for t in (x, layer.weight, layer.bias)]
    added = None if residual is None else residual.detach().double().requires_grad_()
    values, weight, bias = leaves
    mean = values.mean((0, 2, 3), keepdim=True)
    variance = ((values - mean) ** 2).mean((0, 2, 3), keepdim=True)
    y = (values - mean) / (variance + layer.eps).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
    y = y if added is None else y + added
    y = y.clamp(min=0) if relu else y
    y.backward(gradient.double())
    count = x.numel() / x.shape[1]
    running_mean = 0.1 * mean.detach().flatten()
    running_var = 0.9 + 0.1 * variance.detach().flatten() * count / (count - 1)
    gradients = [t.grad for t in (*leaves, *([added] if added is not None else [])) if t.grad is not None]
    return [y.detach(), running_mean, running_var, *gradients]


@compiled
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 32, 7, 6), (3, 144, 9, 9), (2, 1024, 2, 2), (2, 16, 1, 1)])
def test_batch_norm_against_double_precision(
    shape: tuple[int, ...], dtype: torch.dtype, with_residual: bool, relu: bool, taken: list[str]
) -> None:
    x = random_images(*shape, dtype=dtype).requires_grad_()
    residual = random_images(*shape, dtype=dtype, seed=3).requires_grad_() if with_residual else None
    gradient = random_images(*shape, dtype=dtype, seed=4) - 5
    layer = random_norm(shape[1])
    y = ops.batch_norm(layer, x, residual, relu=relu)
    y.backward(gradient)
    leaves = [x, layer.weight, layer.bias, *([residual] if residual is not None else [])]
    found = [y.detach(), layer.running_mean, layer.running_var, *(t.grad for t in leaves)]
    expected = double_batch_norm(random_norm(shape[1]), x, residual, relu, gradient)
    assert taken == ["_BatchNorm"]
    assert layer.num_batches_tracked == 1
    for a, b in zip(found, expected, strict=True):
        if shape[0] * shape[2] * shape[3] == 2 and b is expected[3]:
            continue  # with two values a channel the gradient is a difference of nearly equal numbers
        assert relative(a, b) < TOLERANCE[dtype]


@compiled
def test_batch_norm_of_a_mean_far_from_zero() -> None:
    x = random_images(4, 32, 8, 8) * 0.01 + 1000
    y = ops.batch_norm(random_norm(32), x, relu=False)
    expected = double_batch_norm(random_norm(32), x, None, False, torch.ones_like(x))[0]
    assert relative(y, expected) < 1e-2  # float32 keeps three digits of x here: torch is no closer
    assert relative(y, expected) < 2 * relative(random_norm(32)(x), expected) + 1e-5


@compiled
@pytest.mark.parametrize("height", [1, 2, 40])
@pytest.mark.parametrize("value", [1e2, 1e3, 1e5])
def test_one_pixel_far_from_the_others_costs_no_digits(value: float, height: int) -> None:
    for place in (0, 1, 3 * height * 40 - 1):
        x = random_images(3, 32, height, 40) - 5
        x.permute(0, 2, 3, 1).view(-1, 32)[place] = value
        layer = random_norm(32)
        ops.batch_norm(layer, x)
        _, mean, variance, *_ = double_batch_norm(random_norm(32), x, None, True, torch.ones_like(x))
        assert relative(layer.running_mean, mean) < 1e-5
        assert relative(layer.running_var, variance) < 1e-5


@compiled
def test_batch_norm_passes_on_what_is_not_finite() -> None:
    x = random_images(2, 32, 4, 4)
    x[0, 3, 0, 0] = torch.nan
    x[1, 5, 1, 1] = torch.inf
    layer, plain = random_norm(32), random_norm(32)
    y, expected = ops.batch_norm(layer, x), F.relu(plain(x))
    assert torch.equal(y.isfinite(), expected.isfinite())
    assert torch.equal(layer.running_mean.isfinite(), plain.running_mean.isfinite())
    assert not layer.running_var[3].isfinite()


@pytest.fixture
def every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """The grouped convolution also where oneDNN's is faster."""
    monkeypatch.setattr(grouped, "FASTER", dict.fromkeys(grouped.FASTER, grouped.SHAPES))


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (12, 6), (34, 18)])
@pytest.mark.parametrize("channels", [128, 256, 512])
def test_grouped_convolution_against_double_precision(
    channels: int,
    size: tuple[int, int],
    stride: int,
    dtype: torch.dtype,
    taken: list[str],
    every_shape: None,
) -> None:
    narrow = dtype == torch.bfloat16
    if not ops.library().grouped_lanes(narrow):  # type: ignore[union-attr]
        pytest.skip(f"no kernel of {dtype} for this CPU")
    layer = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=32, bias=False)
    layer = layer.to(memory_format=torch.channels_last)
    x = (random_images(2, channels, *size) - 5).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        y = ops.grouped_convolution(layer, x)
    gradient = random_images(*y.shape, dtype=dtype, seed=5) - 5
    y.backward(gradient)
    assert taken == ["_GroupedConvolution"]
    values = x.detach().double().requires_grad_()
    weight = layer.weight.detach().to(dtype).double().requires_grad_()
    expected = F.conv2d(values, weight, stride=stride, padding=1, groups=32)
    expected.backward(gradient.double())
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    rounding = 4e-3 if narrow else 1e-6
    assert relative(y, expected) < rounding
    assert relative(x.grad, values.grad) < rounding  # type: ignore[arg-type]
    assert relative(layer.weight.grad, weight.grad) < 1e-5  # type: ignore[arg-type]  # it is never rounded to bf16


@compiled
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [128, 256, 512])
def test_grouped_convolution_of_inference_against_double_precision(
    channels: int, stride: int, every_shape: None, *, relu: bool
) -> None:
    weight = random_images(channels, channels // 32, 3, 3, seed=1) - 5
    bias, x = torch.linspace(-9, 9, channels), random_images(2, channels, 12, 6) - 5
    if not grouped.takes(weight, x, stride):
        pytest.skip("no kernel of float32 for this CPU")
    found = grouped.answer(x, weight, bias, stride, relu=relu)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=stride, padding=1, groups=32)
    assert relative(found, F.relu(expected) if relu else expected) < 1e-6


@compiled
@pytest.mark.parametrize(("module", "relus"), [(grouped, [True] * 3), (pointwise, [True, False, True] * 3)])
def test_inference_takes_the_kernels(
    module: ModuleType, relus: list[bool], every_shape: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, calls, answer = random_images(2, 3, 8, 8), [], module.answer

    def counted(*tensors: object, relu: bool) -> Tensor:
        calls.append(relu)
        return answer(*tensors, relu=relu)

    monkeypatch.setattr(module, "answer", counted)
    with torch.inference_mode():
        for_inference(make_model(), "fp32")(images)
    kernels = ops.library()
    here = kernels.grouped_lanes(False) if module is grouped else kernels.has_pointwise()  # type: ignore[union-attr]
    assert calls == (relus if here else [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_fits_into_the_place_of_an_output(dtype: torch.dtype) -> None:
    x = random_images(2, 16, 8, 6).to(dtype)
    y = outputs.empty(x, 32, 2)
    assert y.shape == (2, 32, 4, 3)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.untyped_storage().nbytes() >= y.nbytes + 96  # what glibc asks for beyond the size


@compiled
@pytest.mark.parametrize(("channels", "out"), [(32, 128), (128, 64), (1040, 48), (16, 16), (32, 24), (40, 16)])
@pytest.mark.parametrize(("size", "stride"), [((8, 8), 1), ((8, 8), 2), ((5, 7), 2), ((1, 3), 1), ((61, 47), 1)])
def test_pointwise_convolution_against_double_precision(
    channels: int, out: int, size: tuple[int, int], stride: int, taken: list[str]
) -> None:
    layer = nn.Conv2d(channels, out, 1, stride, bias=False).to(memory_format=torch.channels_last)
    x = (random_images(3, channels, *size) - 5).requires_grad_()
    y = ops.pointwise_convolution(layer, x)
    gradient = random_images(*y.shape, seed=5) - 5
    y.backward(gradient)
    here = ops.library().has_pointwise()  # type: ignore[union-attr]
    assert taken == (["_PointwiseConvolution"] if here and channels % 16 == out % 16 == 0 else [])
    values = x.detach().double().requires_grad_()
    weight = layer.weight.detach().double().requires_grad_()
    expected = F.conv2d(values, weight, stride=stride)
    expected.backward(gradient.double())
    for found, value in ((y, expected), (x.grad, values.grad), (layer.weight.grad, weight.grad)):
        assert relative(found, value) < 1e-6  # type: ignore[arg-type]
    assert layer.weight.grad.stride() == layer.weight.stride()  # type: ignore[union-attr]  # as fused SGD asks


@compiled
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "out"), [(32, 128), (1024, 64)])
def test_pointwise_convolution_of_inference_against_double_precision(
    channels: int, out: int, stride: int, *, with_residual: bool, relu: bool
) -> None:
    weight, bias = random_images(out, channels, 1, 1, seed=1) - 5, torch.linspace(-9, 9, out)
    x = random_images(3, channels, 9, 7) - 5
    if not pointwise.takes(weight, x):
        pytest.skip("no kernel of float32 for this CPU")
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=stride)
    residual = 30 * random_images(*expected.shape, seed=2) if with_residual else None
    expected = expected + residual.double() if residual is not None else expected
    found = pointwise.answer(x, pointwise.pack(weight), bias, stride, residual, relu=relu)
    assert relative(found, F.relu(expected) if relu else expected) < 1e-6


@compiled
def test_the_number_of_threads_changes_no_bit_of_the_pointwise_convolution() -> None:
    x, weight = random_images(2, 256, 70, 60), random_images(96, 256, 1, 1, seed=1)
    if not pointwise.takes(weight, x):
        pytest.skip("no kernel of float32 for this CPU")
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3, 8):
            torch.set_num_threads(number)
            layer = nn.Conv2d(256, 96, 1, bias=False)
            layer.weight = nn.Parameter(weight.clone())
            images = x.clone().requires_grad_()
            y = ops.pointwise_convolution(layer, images)
            y.backward(y.detach())
            found.append((y, images.grad, layer.weight.grad))
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(one, other) for one, other in zip(found[0], others, strict=True))


@compiled
@pytest.mark.parametrize("case", ["bias", "padding", "groups", "hook", "evaluation", "contiguous", "frozen", "image"])
def test_where_the_pointwise_form_does_not_fit_torch_is_used(case: str, taken: list[str]) -> None:
    options = {"bias": {"bias": True}, "padding": {"padding": 1}, "groups": {"groups": 2}}.get(case, {})
    layer = nn.Conv2d(3 if case == "image" else 32, 32, 1, **{"bias": False, **options})  # type: ignore[arg-type]
    x = random_images(2, layer.in_channels, 4, 4).requires_grad_()
    if case == "evaluation":
        layer.eval()
    if case == "contiguous":
        x = x.contiguous()
    if case == "hook":
        layer.register_forward_hook(lambda *_: None)
    with torch.set_grad_enabled(case != "frozen"):
        torch.testing.assert_close(ops.pointwise_convolution(layer, x), layer(x))
    assert not taken


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model(Model(blocks=(1, 1, 1), cardinality=8), 10)  # groups of 4, 8 and 16 channels
    return model.to(memory_format=torch.channels_last).train()


def fifty_steps(*, narrow: bool) -> tuple[Tensor, Tensor]:
    """Losses of 50 steps of SGD with the kernels, and of float32 and torch's own operations at the same weights."""
    model, plain = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = random_images(16, 3, 8, 8) - 5
    labels = torch.randint(10, (16,), generator=torch.Generator().manual_seed(7))
    found, expected = [], []
    for _ in range(50):
        plain.load_state_dict(model.state_dict())
        with torch.no_grad(), ops.disabled():
            expected.append(F.cross_entropy(plain(images), labels))
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    for buffer, other in zip(model.buffers(), plain.buffers(), strict=True):
        assert relative(buffer, other) < (0.02 if narrow else 1e-5)
    return torch.stack(found), torch.stack(expected)


@compiled
def test_losses_of_fifty_steps_in_float32(taken: list[str]) -> None:
    found, expected = fifty_steps(narrow=False)
    assert taken.count("_BatchNorm") == 50 * 13
    here = ops.library().has_pointwise()  # type: ignore[union-attr]
    assert taken.count("_PointwiseConvolution") == (50 * 9 if here else 0)  # two a block, and three shortcuts
    assert found[-1] < 0.2 * found[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@compiled
def test_losses_of_fifty_steps_in_bf16(taken: list[str]) -> None:
    found, expected = fifty_steps(narrow=True)
    assert "_GroupedConvolution" in taken or not ops.library().grouped_lanes(True)  # type: ignore[union-attr]
    assert found[-1] < 0.2 * found[0]
    assert (found - expected).abs().max() < 0.05
    assert (found - expected).abs().mean() < 0.01


@compiled
@pytest.mark.parametrize(("width", "stride"), [(128, 1), (256, 2), (512, 2)])
def test_gradients_of_a_block_in_float32(width: int, stride: int, taken: list[str]) -> None:
    """Against double precision: within 1e-5, or no farther from it than torch's own operations in float32 are."""

    def gradients(dtype: torch.dtype, fused: bool) -> list[Tensor]:
        torch.manual_seed(0)
        block = Block(width, width, 2 * width, stride, 32).to(memory_format=torch.channels_last)
        for layer in block.modules():
            if isinstance(layer, nn.BatchNorm2d):  # far from where ReLU bends, which rounding would decide
                nn.init.constant_(layer.weight, 0.2)
                nn.init.constant_(layer.bias, 3.0)
        x = (random_images(4, width, 8, 8) - 5).to(dtype).requires_grad_()
        with contextlib.nullcontext() if fused else ops.disabled():
            y = block.to(dtype)(x)
        y.backward((random_images(*y.shape, seed=9) - 5).to(dtype))
        return [t.grad for t in (x, *block.parameters()) if t.grad is not None]

    exact, plain = gradients(torch.float64, False), gradients(torch.float32, False)
    assert not taken
    for found, other, expected in zip(gradients(torch.float32, True), plain, exact, strict=True):
        assert relative(found, expected) < max(1e-5, 2 * relative(other, expected))
    assert taken.count("_BatchNorm") == 4


def products_with_hessian(model: nn.Module, narrow: bool) -> list[Tensor]:
    """Return the Hessian's product with a vector: by images and weights, all by one call of `torch.autograd.grad`."""
    images, labels = (random_images(4, 3, 8, 8) - 5).requires_grad_(), torch.tensor([1, 2, 3, 4])
    leaves = [images, *model.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        loss = F.cross_entropy(model(images), labels)
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    vector = torch.randn(sum(t.numel() for t in leaves), generator=torch.Generator().manual_seed(6))
    product = torch.cat([g.reshape(-1) for g in gradients]) @ vector
    return [*gradients, *torch.autograd.grad(product, leaves)]


@compiled
@pytest.mark.parametrize("narrow", [False, True])
def test_the_gradient_of_a_gradient_is_torchs(taken: list[str], every_shape: None, *, narrow: bool) -> None:
    """`torch.autograd.grad` would leave out, without an error, what goes through a gradient that has no graph."""
    found = products_with_hessian(make_model(), narrow)
    assert taken.count("_BatchNorm") == 13
    assert taken.count("_GroupedConvolution") == (3 if ops.library().grouped_lanes(narrow) else 0)  # type: ignore[union-attr]
    with ops.disabled():
        plain, expected = (products_with_hessian(make_model(), rounded) for rounded in (narrow, False))
    for a, b, c in zip(found, plain, expected, strict=True):
        assert relative(a, c) < 1e-4 + 2 * relative(b, c)  # in bf16 as far from float32 as torch's own


@compiled
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_the_gradient_of_batch_norms_gradient_against_double_precision(*, with_residual: bool, relu: bool) -> None:
    def second(dtype: torch.dtype) -> list[Tensor]:
        layer = random_norm(32).to(dtype)
        x, *residual = (random_images(3, 32, 5, 4, seed=seed).to(dtype) for seed in range(1 + with_residual))
        leaves = [t.requires_grad_() for t in (x, *residual, layer.weight, layer.bias)]
        y = ops.batch_norm(layer, x, *residual, relu=relu)
        gradients = torch.autograd.grad((y**3).sum(), leaves, create_graph=True)
        return [*gradients, *torch.autograd.grad(torch.stack([(g**2).sum() for g in gradients]).sum(), leaves)]

    for found, expected in zip(second(torch.float32), second(torch.float64), strict=True):
        assert relative(found, expected) < 1e-4


@compiled
def test_the_number_of_threads_changes_no_bit_of_batch_norm() -> None:
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        x = random_images(9, 64, 16, 16).requires_grad_()
        layer = random_norm(64)
        ops.batch_norm(layer, x).square().sum().backward()
        results.append([x.grad, layer.weight.grad, layer.running_var])
    torch.set_num_threads(threads)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)  # type: ignore[arg-type]


@compiled
@pytest.mark.parametrize(
    "case", ["evaluation", "contiguous", "channels", "double", "hook", "pre-hook", "momentum", "meta", "off"]
)
def test_where_the_kernel_does_not_fit_torch_is_used(case: str, taken: list[str]) -> None:
    layer, x = random_norm(32), random_images(2, 32, 4, 4)
    if case == "evaluation":
        layer.eval()
    if case == "contiguous":
        x = x.contiguous()
    if case == "channels":
        layer, x = random_norm(20), random_images(2, 20, 4, 4)
    if case == "double":
        layer, x = layer.double(), x.double()
    if case == "hook":
        layer.register_forward_hook(lambda *_: None)
    if case == "pre-hook":
        layer.register_full_backward_pre_hook(lambda *_: None)
    if case == "momentum":
        layer.momentum = None
    if case == "meta":
        layer, x = layer.to("meta"), x.to("meta")
    with ops.disabled() if case == "off" else torch.enable_grad():
        y = ops.batch_norm(layer, x)
    assert not taken
    if case != "meta":
        plain = random_norm(x.shape[1]).to(x.dtype)
        plain.train(layer.training)
        plain.momentum = layer.momentum
        torch.testing.assert_close(y, F.relu(plain(x)))


@compiled
def test_a_layer_of_another_width_is_torchs_error(taken: list[str]) -> None:
    """A kernel is given addresses: it would read and write beyond the layer's tensors."""
    with pytest.raises(RuntimeError, match="64 elements not 32"):
        ops.batch_norm(random_norm(32), random_images(2, 64, 4, 4))
    layer = nn.Conv2d(128, 128, 3, padding=1, groups=32, bias=False)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="128 channels, but got 64"):
        ops.grouped_convolution(layer, random_images(2, 64, 8, 8, dtype=torch.bfloat16))
    assert not taken


@compiled
def test_a_weight_that_is_a_strided_view(taken: list[str]) -> None:
    layer, plain, x = random_norm(32), random_norm(32), random_images(2, 32, 4, 4)
    values = torch.arange(64.0)[::2]
    layer.weight, plain.weight = nn.Parameter(values), nn.Parameter(values.clone())
    torch.testing.assert_close(ops.batch_norm(layer, x), F.relu(plain(x)))
    assert not taken


@compiled
def test_the_default_device_is_not_asked(taken: list[str], every_shape: None) -> None:
    """A kernel is given addresses: that of a tensor on `meta` is 0."""
    model, x = make_model(), random_images(4, 3, 8, 8)
    found = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            loss = model(x).square().mean()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert taken.count("_BatchNorm") == 26


@compiled
def test_tensors_on_several_devices_are_torchs(every_shape: None) -> None:
    x, there = random_images(2, 128, 8, 8), random_images(2, 128, 8, 8).to("meta")
    assert norm.fits(random_norm(128), x, x)
    assert not norm.fits(random_norm(128), x, there)
    assert not grouped.takes(random_images(128, 4, 3, 3).to("meta"), x, 1)
    assert not pointwise.takes(random_images(128, 128, 1, 1).to("meta"), x)


@compiled
def test_the_gradient_of_a_transposed_weight_of_the_pointwise_convolution() -> None:
    values, x = random_images(32, 48, 1, 1, seed=1) - 5, random_images(2, 32, 8, 8)
    layer, plain = (nn.Conv2d(32, 48, 1, bias=False) for _ in range(2))
    layer.weight = nn.Parameter(values[..., 0, 0].t()[:, :, None, None])
    plain.weight = nn.Parameter(layer.weight.detach().contiguous())
    for each, convolve in ((layer, ops.pointwise_convolution), (plain, nn.Conv2d.__call__)):
        convolve(each, x).square().sum().backward()
    assert relative(layer.weight.grad, plain.weight.grad) < 1e-5  # type: ignore[arg-type]


@compiled
def test_under_autocast_to_float16_torch_convolves(taken: list[str]) -> None:
    layer = nn.Conv2d(128, 128, 3, padding=1, groups=32, bias=False)
    with torch.autocast("cpu", torch.float16):
        assert ops.grouped_convolution(layer, random_images(2, 128, 8, 8, dtype=torch.bfloat16)).dtype == torch.half
    assert not taken


@compiled
@pytest.mark.parametrize("narrow", [False, True])
def test_a_model_that_is_compiled_is_one_graph(taken: list[str], *, narrow: bool) -> None:
    torch.compiler.reset()
    model, images = make_model(), random_images(4, 3, 8, 8)
    whole = torch.compile(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        found = whole(images)
        assert not taken
        with ops.disabled():
            torch.testing.assert_close(found, make_model()(images))


@compiled
def test_a_gradient_in_another_layout_is_taken() -> None:
    x = random_images(2, 32, 4, 4).requires_grad_()
    layer = random_norm(32)
    ops.batch_norm(layer, x).mean((2, 3)).square().sum().backward()  # the gradient is expanded from (N, C)
    other = random_images(2, 32, 4, 4).requires_grad_()
    F.relu(random_norm(32)(other)).mean((2, 3)).square().sum().backward()
    assert relative(x.grad, other.grad) < 1e-5  # type: ignore[arg-type]


@compiled
@pytest.mark.parametrize("narrow", [False, True])
def test_saved_tensors_that_come_back_in_another_layout_give_the_same_gradients(
    taken: list[str], every_shape: None, *, narrow: bool
) -> None:
    """As from `torch.autograd.graph.save_on_cpu(pin_memory=True)`, which keeps values, and no layout."""
    images, labels = random_images(4, 3, 8, 8) - 5, torch.tensor([1, 2, 3, 4])

    def gradients() -> list[Tensor]:
        model = make_model()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            F.cross_entropy(model(images), labels).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    plain = gradients()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().contiguous(), lambda t: t):
        found = gradients()
    assert taken.count("_BatchNorm") == 26
    for ours, theirs in zip(found, plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(
    shutil.which("g++") is None or platform.system() != "Linux" or platform.machine() != "x86_64",
    reason="no g++, or not a machine that the kernels are for",
)
def test_where_there_is_a_compiler_the_kernels_compile() -> None:
    assert ops.library() is not None  # or a mistake in the source would only skip the tests above


@pytest.mark.parametrize(
    ("compiler", "reason"), [("no-such-compiler", "there is no no-such-compiler"), ("false", "/false failed")]
)
def test_without_a_compiler_there_are_no_kernels_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, compiler: str, reason: str
) -> None:
    monkeypatch.setenv("CXX", compiler)
    build.library.cache_clear()
    try:
        with pytest.warns(FallbackWarning, match=reason) as shown:
            assert (build.library(), build.library()) == (None, None)
        assert len(shown) == 1
        assert "slower" in str(shown[0].message)
        x = random_images(2, 32, 4, 4)
        torch.testing.assert_close(ops.batch_norm(random_norm(32), x), F.relu(random_norm(32)(x)))
    finally:
        build.library.cache_clear()


def test_without_a_home_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.Path, "home", homeless)
    build.library.cache_clear()
    try:
        with pytest.warns(FallbackWarning, match="home directory"):
            assert build.library() is None
    finally:
        build.library.cache_clear()


def test_they_can_be_turned_off_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATNEXT_KERNELS", "0")
    build.library.cache_clear()
    try:
        assert ops.library() is None
    finally:
        build.library.cache_clear()


def test_code_that_others_could_have_written_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the compiler counts its calls: each writes a file as g++ does."""
    compiler = tmp_path / "compiler"
    script = f'for last; do :; done\n[ "$1" = --version ] || (echo x >> {tmp_path}/calls; : > "$last")\n'
    compiler.write_text(f"#!/bin/sh\n{script}")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build._compiled()
    assert first == build._compiled()
    assert (tmp_path / "calls").read_text().count("x") == 1
    for path in (first, first.parent):
        assert path.stat().st_mode & 0o077 == 0
    first.chmod(0o770)
    build._compiled()
    assert (tmp_path / "calls").read_text().count("x") == 2
    first.parent.chmod(0o777)
    build._compiled()
    assert first.parent.stat().st_mode & 0o022 == 0
    monkeypatch.setattr(build.os, "getuid", lambda: os.geteuid() + 1)
    with pytest.raises(RuntimeError, match="belongs to another user"):
        build._compiled()


@compiled
@pytest.mark.filterwarnings("ignore")  # torch's own: of tensors that it looks at, and of rules that it lacks
@pytest.mark.parametrize("kind", ["compiled autograd", "batched"])
def test_a_backward_pass_that_torch_looks_into_is_torchs(kind: str) -> None:
    """The kernels get addresses, which mean nothing while a compiler or `vmap` goes through the backward pass."""

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        block = Block(32, 32, 64, 1, 8).train().to(memory_format=torch.channels_last)
        x = random_images(4, 32, 8, 8).requires_grad_()
        leaves, y = [x, *block.parameters()], block(x)
        if kind == "batched":
            seeds = torch.stack([y.detach(), torch.ones_like(y)])
            return list(torch.autograd.grad(y, leaves, seeds, is_grads_batched=True))
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
            y.square().sum().backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    found = gradients()
    with ops.disabled():
        expected = gradients()
    for a, b in zip(found, expected, strict=True):
        assert relative(a, b) < 1e-4


@compiled
def test_a_forward_pass_that_was_replaced_is_called(every_shape: None) -> None:
    model, calls = make_model(), []
    for layer in (model.bn1, model.layer1[0].conv2, model.layer1[0].conv1):
        own = layer.forward
        layer.forward = lambda x, own=own: (calls.append(1), own(x))[1]
    model.train()(random_images(4, 3, 8, 8))
    assert len(calls) == 3


@compiled
def test_a_traced_graph_has_torchs_operations() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    block = Block(32, 32, 64, 1, 8).train()
    names = [str(node.target) for node in make_fx(block)(random_images(4, 32, 8, 8)).graph.nodes]
    assert sum("convolution" in name for name in names) == 3 + (len(list(block.shortcut.children())) > 0)


@compiled
def test_a_library_that_cannot_be_loaded_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "kernels.so"

    def compiled_() -> Path:
        if not made.exists():
            shutil.copy(real, made)
        return made

    real = build._compiled()
    made.touch()
    monkeypatch.setattr(build, "_compiled", compiled_)
    build.library.cache_clear()
    try:
        assert build.library() is not None
    finally:
        build.library.cache_clear()
