"""Networks of every block against NumPy in double precision, and what all of them keep to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from network_oracle import Oracle
from networks import SMALL_RESNEXT, VARIANTS, formula, images
from torch import nn

from flatnext import ops
from flatnext.config import Model
from flatnext.errors import InputError
from flatnext.models import BLOCKS, ResNeXt, build, resnext29
from flatnext.models.network import constant_widths, pyramid_widths
from flatnext.models.selective_kernel import SelectiveKernel, SelectiveKernelBlock
from flatnext.models.shortcut import PaddedShortcut

RESNEXTS = {
    "resnext29": Model(),
    "one-group": Model(blocks=(2, 1, 1), cardinality=1, bottleneck_width=6, stem=5),
    "one-stage-identity": Model(blocks=(2,), cardinality=2, bottleneck_width=4, stem=16),
    "four-stages": Model(blocks=(1, 1, 2, 1), cardinality=3, bottleneck_width=2, stem=4),
}
SIZES = {"resnext29": 12, "one-group": 16, "one-stage-identity": 7, "four-stages": 8}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", [*RESNEXTS, *VARIANTS])
def test_logits_and_statistics_equal_the_numpy_oracle(name, training):
    settings = RESNEXTS.get(name) or VARIANTS[name]
    model = formula(build(settings, 5).double()).train(training)
    oracle = Oracle(settings, {entry: value.numpy() for entry, value in model.state_dict().items()}, training)
    x = images(3, SIZES.get(name, 6))
    expected = oracle.logits(x.numpy())
    with torch.no_grad():
        logits = model(x).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-11)
    for entry, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), oracle.state[entry], rtol=0, atol=1e-11, err_msg=entry)
        assert not entry.endswith("num_batches_tracked") or value == 7 + training


# Gradients


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_has_a_gradient(name):
    torch.manual_seed(0)
    model, x = build(VARIANTS[name], 5), torch.randn(6, 3, 8, 8)
    nn.functional.cross_entropy(model(x), torch.arange(6) % 5).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_selective_kernels_equal_finite_differences(stride):
    torch.manual_seed(0)
    layer = SelectiveKernel(4, stride, 2).double()
    assert torch.autograd.gradcheck(layer, torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True))


def test_gradients_of_a_padded_shortcut_equal_finite_differences():
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(PaddedShortcut(3, 5, 2), x)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_cpu_kernels_agree_with_torch(block):
    settings = Model(
        block=block, blocks=(1, 1), cardinality=4 if block in ("resnext", "sk") else 1, bottleneck_width=16
    )
    torch.manual_seed(0)
    model = build(settings, 5).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    labels, gradients = torch.arange(4), []
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(x), labels)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        with ops.disabled():
            loss = nn.functional.cross_entropy(model(x), labels)
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for mine, theirs in zip(*gradients[:2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


# Other precisions, layouts and sizes


@pytest.mark.parametrize("name", VARIANTS)
def test_autocast_and_channels_last_agree_with_plain(name):
    model, x = formula(build(VARIANTS[name], 5)).eval(), images(4, 8, torch.float32)
    with torch.no_grad():
        plain = model(x)
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert half.dtype == torch.float32
    assert float((half - plain).abs().max() / plain.abs().max()) < 0.1


def test_channels_last_autocast_and_compile_agree_with_plain():
    model, x = formula(ResNeXt(**SMALL_RESNEXT)).eval(), images(4, 8, torch.float32)
    with torch.no_grad():
        plain = model(x)
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), plain)
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x), plain)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert half.dtype == torch.float32  # the last layer stays out of autocast
    assert not torch.equal(half, plain)
    torch.testing.assert_close(half, plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("shape", [(30, 32), (32, 31), (33, 33)])
def test_image_size_that_does_not_divide_is_refused(shape):
    with pytest.raises(InputError, match=rf"{shape[0]}x{shape[1]}: give sides that are multiples of 4"):
        resnext29()(torch.zeros(2, 3, *shape))


@pytest.mark.parametrize("shape", [(4, 4), (8, 20)])
def test_any_size_that_divides_is_taken(shape):
    assert ResNeXt((1, 1, 1), 2, 2, 4, 6)(torch.zeros(2, 3, *shape)).shape == (2, 6)


def test_one_image_cannot_train_selective_kernels_and_can_be_answered():
    block = SelectiveKernelBlock(4, 8, 16, 1, 2)
    with pytest.raises(InputError, match="block sk cannot train on a batch of one image"):
        block(torch.randn(1, 4, 6, 6))
    assert block.eval()(torch.randn(1, 4, 6, 6)).shape == (1, 16, 6, 6)


# Names and initial weights


def test_state_dict_has_the_names_of_the_baselines_code():
    def norm(name):
        return [f"{name}.{entry}" for entry in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]

    expected = ["conv1.weight", *norm("bn1")]
    for stage in (1, 2, 3):
        for index in range(3):
            block = f"layer{stage}.{index}"
            for k in (1, 2, 3):
                expected += [f"{block}.conv{k}.weight", *norm(f"{block}.bn{k}")]
            if index == 0:
                expected += [f"{block}.shortcut.0.weight", *norm(f"{block}.shortcut.1")]
    expected += ["linear.weight", "linear.bias"]
    assert list(resnext29().state_dict()) == expected
    assert len(expected) == 188


def test_the_same_seed_gives_the_same_weights_through_build_and_directly():
    torch.manual_seed(3)
    direct = resnext29(classes=7).state_dict()
    torch.manual_seed(3)
    built = build(Model(), classes=7).state_dict()
    assert all(torch.equal(direct[name], built[name]) for name in direct)


def test_initial_weights_are_drawn_in_the_order_of_the_baselines_code():
    torch.manual_seed(5)
    layers, channels = [nn.Conv2d(3, 32, 1, bias=False)], 32
    for width in (128, 128, 128, 256, 256, 256, 512, 512, 512):
        layers.append(nn.Conv2d(channels, width, 1, bias=False))
        layers.append(nn.Conv2d(width, width, 3, groups=32, bias=False))
        layers.append(nn.Conv2d(width, 2 * width, 1, bias=False))
        if channels != 2 * width:
            layers.append(nn.Conv2d(channels, 2 * width, 1, bias=False))
        channels = 2 * width
    layers.append(nn.Linear(1024, 10))
    torch.manual_seed(5)
    built = [m for m in build(Model(), 10).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(built) == len(layers)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(built, layers, strict=True))
    assert torch.equal(built[-1].bias, layers[-1].bias)


# Widths


def test_widths_of_a_pyramid_are_the_papers():
    """PyramidNet-110, alpha 48: 16 channels after the stem, 54 blocks, 64 in the last."""
    widths = [width for stage in pyramid_widths((18, 18, 18), 16, 48, 1) for width in stage]
    assert widths[:5] == [16, 17, 18, 19, 20]  # 16 + 48 k / 54 is 16.9, 17.8, 18.7, 19.6, 20.4
    assert (len(widths), widths[17], widths[35], widths[-1]) == (54, 32, 48, 64)


def test_widths_of_a_pyramid_are_divisible():
    assert pyramid_widths((2, 1), 8, 10, 2) == [[10, 14], [18]]  # 11.3, 14.7, 18
    assert constant_widths((2, 1), 8) == [[8, 8], [16]]
