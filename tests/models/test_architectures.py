"""Blocks, stems and widths beside the report's: against NumPy in double precision, and against counts by formula."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from oracle_resnext import Oracle, convolve
from places import REPOSITORY
from test_inference import error, plain_logits, trained
from test_models import formula, images
from tiny import tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flatnext import cli, ops, train
from flatnext.bench.plan import Plan
from flatnext.config import MODELS, Config, Model
from flatnext.errors import InputError
from flatnext.models import (
    BLOCKS,
    build,
    create_model,
    for_inference,
    list_models,
    parameter_count,
    quantized,
    summarize,
)
from flatnext.models.network import constant_widths, pyramid_widths
from flatnext.models.selective_kernel import SelectiveKernel, SelectiveKernelBlock
from flatnext.models.shortcut import PaddedShortcut

NAMED = [name for name in MODELS if name not in ("resnext29", "resnext20", "resnext11")]
PLAIN = {"cardinality": 1, "bottleneck_width": 8, "blocks": (2, 1), "stem": 4}
GROUPED = {"cardinality": 2, "bottleneck_width": 4, "blocks": (2, 1), "stem": 4}
PYRAMID = {"widths": "pyramid", "pyramid_alpha": 10}
SMALL = {
    "stem3": Model(**GROUPED, stem_kernel=3),
    "basic": Model(**PLAIN, block="basic"),
    "preact": Model(**PLAIN, block="preact", stem_kernel=3),
    "sk": Model(**GROUPED, block="sk"),
    "pyramid": Model(**GROUPED, **PYRAMID),
    "pyramid-basic": Model(**PLAIN, **PYRAMID, block="basic", stem_kernel=3),
    "pyramid-preact": Model(**PLAIN, **PYRAMID, block="preact"),
    "pyramid-sk": Model(**GROUPED, **PYRAMID, block="sk"),
}


# An oracle


def shrink(x):
    """Average squares of 2x2 pixels."""
    n, channels, height, width = x.shape
    return x.reshape(n, channels, height // 2, 2, width // 2, 2).mean((3, 5))


class BlocksOracle(Oracle):
    """Forward passes of networks of any settings, on a state dict of arrays."""

    def __init__(self, settings, state, training):
        super().__init__({k: v.numpy() for k, v in state.items()}, settings.cardinality, training)
        self.settings = settings
        self.blocks = {"resnext": self.bottleneck, "sk": self.bottleneck, "basic": self.basic, "preact": self.preact}

    def active(self, name, x):
        return np.maximum(self.norm(name, x), 0)

    def conv(self, name, x, stride=1, groups=1):
        weight = self.state[f"{name}.weight"]
        return convolve(x, weight, stride, weight.shape[2] // 2, groups)

    def shortcut(self, name, x, stride, channels):
        if f"{name}.shortcut.0.weight" in self.state:
            return self.norm(f"{name}.shortcut.1", self.conv(f"{name}.shortcut.0", x, stride))
        x = shrink(x) if stride == 2 else x
        return np.concatenate([x, np.zeros((len(x), channels - x.shape[1], *x.shape[2:]))], 1)

    def bottleneck(self, name, x, stride):
        y = self.active(f"{name}.bn1", self.conv(f"{name}.conv1", x))
        if self.settings.block == "sk":
            y = self.select(f"{name}.conv2", y, stride)
        else:
            y = self.active(f"{name}.bn2", self.conv(f"{name}.conv2", y, stride, self.groups))
        y = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", y))
        return np.maximum(y + self.shortcut(name, x, stride, y.shape[1]), 0)

    def basic(self, name, x, stride):
        y = self.active(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride))
        y = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y))
        return np.maximum(y + self.shortcut(name, x, stride, y.shape[1]), 0)

    def preact(self, name, x, stride):
        active = self.active(f"{name}.bn1", x)
        y = self.conv(f"{name}.conv1", active, stride)
        y = self.conv(f"{name}.conv2", self.active(f"{name}.bn2", y))
        if f"{name}.shortcut.weight" in self.state:
            return y + self.conv(f"{name}.shortcut", active, stride)
        return y + self.shortcut(name, x, stride, y.shape[1])

    def select(self, name, x, stride):
        dilated = np.zeros((*self.state[f"{name}.conv2.weight"].shape[:2], 5, 5))
        dilated[:, :, ::2, ::2] = self.state[f"{name}.conv2.weight"]
        narrow = self.active(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride, self.groups))
        wide = self.active(f"{name}.bn2", convolve(x, dilated, stride, 2, self.groups))
        pooled = (narrow + wide).mean((2, 3), keepdims=True)
        hidden = self.active(f"{name}.bn3", self.conv(f"{name}.fuse", pooled))
        a, b = np.split(np.exp(self.conv(f"{name}.select", hidden)), 2, axis=1)
        return (a * narrow + b * wide) / (a + b)

    def logits(self, pixels):
        x = self.conv("conv1", pixels)
        x = self.active("bn1", x) if "bn1.weight" in self.state else x
        for stage, count in enumerate(self.settings.blocks):
            for index in range(count):
                stride = 2 if stage and not index else 1
                x = self.blocks[self.settings.block](f"layer{stage + 1}.{index}", x, stride)
        x = self.active("bn", x) if "bn.weight" in self.state else x
        return x.mean((2, 3)) @ self.state["linear.weight"].T + self.state["linear.bias"]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", SMALL)
def test_logits_and_statistics_equal_the_numpy_oracle(name, training):
    settings = SMALL[name]
    model = formula(build(settings, 5).double()).train(training)
    oracle = BlocksOracle(settings, model.state_dict(), training)
    x = images(3, 6)
    expected = oracle.logits(x.numpy())
    with torch.no_grad():
        logits = model(x).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)
    for entry, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), oracle.state[entry], rtol=0, atol=1e-9, err_msg=entry)


# Gradients


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_has_a_gradient(name):
    torch.manual_seed(0)
    model, x = build(SMALL[name], 5), torch.randn(6, 3, 8, 8)
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


@pytest.mark.parametrize("name", SMALL)
def test_autocast_and_channels_last_agree_with_plain(name):
    model, x = formula(build(SMALL[name], 5)).eval(), images(4, 8, torch.float32)
    with torch.no_grad():
        plain = model(x)
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(x), plain, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert half.dtype == torch.float32
    assert float((half - plain).abs().max() / plain.abs().max()) < 0.1


def test_one_image_cannot_train_selective_kernels_and_can_be_answered():
    block = SelectiveKernelBlock(4, 8, 16, 1, 2)
    with pytest.raises(InputError, match="block sk cannot train on a batch of one image"):
        block(torch.randn(1, 4, 6, 6))
    assert block.eval()(torch.randn(1, 4, 6, 6)).shape == (1, 16, 6, 6)


# Widths


def test_widths_of_a_pyramid_are_the_papers():
    """PyramidNet-110, alpha 48: 16 channels after the stem, 54 blocks, 64 in the last."""
    widths = [width for stage in pyramid_widths((18, 18, 18), 16, 48, 1) for width in stage]
    assert widths[:5] == [16, 17, 18, 19, 20]  # 16 + 48 k / 54 is 16.9, 17.8, 18.7, 19.6, 20.4
    assert (len(widths), widths[17], widths[35], widths[-1]) == (54, 32, 48, 64)


def test_widths_of_a_pyramid_are_divisible():
    assert pyramid_widths((2, 1), 8, 10, 2) == [[10, 14], [18]]  # 11.3, 14.7, 18
    assert constant_widths((2, 1), 8) == [[8, 8], [16]]


# Counts


def count(settings, classes=10, size=32):
    """Return parameters and multiply-adds by formula."""
    two, out = settings.block in ("basic", "preact"), settings.stem
    groups, total, number = settings.cardinality, sum(settings.blocks), 0
    kernel = settings.stem_kernel**2 * 3 * out
    parameters, work = kernel + 2 * (0 if settings.block == "preact" else out), kernel * size**2
    for stage, blocks in enumerate(settings.blocks):
        for index in range(blocks):
            number += 1
            side = size // 2**stage
            before = side * 2 if stage and not index else side
            width = groups * settings.bottleneck_width * 2**stage
            if settings.widths == "pyramid":
                width = groups * int(
                    (groups * settings.bottleneck_width + settings.pyramid_alpha * number / total) // groups
                )
            into, out = out, width if two else 2 * width
            layers = {  # weights and channels that are normalised, weights and pixels
                "resnext": (
                    [(into * width, before), (9 * width**2 // groups, side), (width * out, side)],
                    2 * width + out,
                ),
                "basic": ([(9 * into * width, side), (9 * width * width, side)], 2 * width),
                "preact": ([(9 * into * width, side), (9 * width * width, side)], into + width),
            }
            hidden = max(width // 16, 32)
            attention = [(width * hidden, 1), (hidden * 2 * width, 1)]
            one, three, last = layers["resnext"][0]
            layers["sk"] = ([one, three, three, *attention, last], 3 * width + hidden + out)
            weights, norms = layers[settings.block]
            if settings.widths != "pyramid" and (into != out or before != side):
                weights, norms = [*weights, (into * out, side)], norms + (0 if settings.block == "preact" else out)
            parameters += sum(weight for weight, _ in weights) + 2 * norms
            work += sum(weight * pixels**2 for weight, pixels in weights)
    parameters += 2 * out if settings.block == "preact" else 0
    return parameters + out * classes + classes, work + out * classes


@pytest.mark.parametrize("name", [*MODELS, *SMALL])
def test_parameters_and_multiply_adds_equal_the_formula_and_torchs_count(name):
    settings = MODELS.get(name) or SMALL[name]
    with torch.device("meta"):
        model, x = build(settings, 10), torch.empty(1, 3, 32, 32)
    summary = summarize(model, 32)
    assert (summary.parameters, summary.multiply_adds) == count(settings)
    assert parameter_count(model) == sum(row.parameters for row in summary.layers) == summary.parameters
    with FlopCounterMode(display=False) as counter:
        model.eval()(x)
    assert counter.get_total_flops() == 2 * summary.multiply_adds


def test_counts_by_hand():
    # Stem 3 x 4 and its norm; blocks of two 3x3 with norms, and a 1x1 with a norm where the shape changes; linear.
    first = 9 * 4 * 8 + 9 * 8 * 8 + 2 * 16 + 4 * 8 + 16
    second = 9 * 8 * 8 * 2 + 2 * 16
    third = 9 * 8 * 16 + 9 * 16 * 16 + 2 * 32 + 8 * 16 + 32
    assert parameter_count(build(SMALL["basic"], 5)) == 12 + 8 + first + second + third + 16 * 5 + 5 == 5913
    assert parameter_count(build(MODELS["resnext29-stem3"], 10)) == 4_761_770 + 8 * 3 * 32
    assert parameter_count(SelectiveKernel(96, 1, 32)) == 2 * (96 * 3 * 9 + 192) + 96 * 32 + 64 + 32 * 192 == 14_848


def test_named_models_are_near_the_reports_in_parameters_and_within_the_budget():
    for name in NAMED:
        parameters, _ = count(MODELS[name])
        assert abs(parameters / 4_761_770 - 1) < 0.031, name
        assert parameters <= 5_000_000


def test_the_page_has_every_model_with_its_figures():
    page = (REPOSITORY / "docs" / "models.md").read_text()
    rows = re.findall(r"^\| `([\w.-]+)` \|.*\| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert rows == [(name, *(f"{n:,}" for n in count(settings))) for name, settings in MODELS.items()]


def test_summary_shows_a_named_model(capsys):
    assert cli.main(["summary", "--model", "sknet44"]) == 0
    printed = capsys.readouterr().out
    assert "Total params: 4,769,194\n" in printed
    assert "Mult-adds: 669,270,528\n" in printed
    assert re.search(r"SelectiveKernel-\d+ +\[-1, 384, 8, 8\] +0 +0\n", printed)


def test_initial_weights_are_drawn_in_the_order_of_the_reports_code():
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


# Settings


@pytest.mark.parametrize("name", [*MODELS, *SMALL])
def test_a_model_survives_json(name):
    config = Config(model=MODELS.get(name) or SMALL[name])
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_from_before_there_were_blocks_is_the_reports_model():
    content = Config().to_json()
    for name in ("block", "widths", "pyramid_alpha", "stem_kernel"):
        del content["model"][name]
    assert Config.from_json(content).model == Model()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem_kernel": 2}, "stem_kernel is 2: give 1 or 3"),
        ({"block": "dense"}, "block is 'dense': choose one of resnext, basic, preact, sk"),
        ({"block": "basic"}, "cardinality is 32: block basic has no groups: set it to 1"),
        ({"block": "preact", "cardinality": 2}, "cardinality is 2: block preact has no groups"),
        ({"widths": "pyramid"}, "widths=pyramid needs pyramid_alpha"),
        ({"pyramid_alpha": 4}, "pyramid_alpha belongs to widths=pyramid, not to constant-by-stage"),
        ({"widths": "pyramid", "pyramid_alpha": 0}, "pyramid_alpha is 0: give at least 1"),
        ({"widths": "pyramid", "pyramid_alpha": 2000}, "more than parameter_budget 5,000,000: lower .*pyramid_alpha"),
        ({"widths": "pyramid", "pyramid_alpha": 10**30}, "too large to count its parameters: lower .*pyramid_alpha"),
        ({**GROUPED, **PYRAMID, "stem": 21}, "cannot pad 21 channels to 20: lower stem to 20"),
        ({**PLAIN, "block": "basic", "bottleneck_width": 400}, "more than parameter_budget 5,000,000: lower blocks"),
    ],
)
def test_mistakes_are_named_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        build(Model(**settings), 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["stem3", "basic", "preact", "sk", "pyramid"])
def test_a_run_trains_and_scores(name, tmp_path):
    shape = {key: getattr(SMALL[name], key) for key in Config().to_json()["model"]}
    result = train(tiny(**{**shape, "epochs": 1}), tmp_path / "run")
    assert 0 <= result["last"]["test"]["accuracy"] <= 1


# For inference


@pytest.mark.parametrize("name", ["stem3", "basic", "pyramid", "pyramid-basic"])
def test_for_inference_equals_the_model(name):
    torch.manual_seed(0)
    model, x = trained(build(SMALL[name], 5)), torch.randn(7, 3, 8, 8)
    assert error(for_inference(model, "fp32")(x), plain_logits(model, x)) < 1e-5
    assert error(for_inference(model, "bf16")(x), plain_logits(model, x)) < 0.05


@pytest.mark.skipif(not quantized.cpu_has_int8(), reason="this CPU has no int8 dot products")
@pytest.mark.parametrize("name", ["stem3", "basic"])
def test_for_inference_in_int8_is_near_the_model(name):
    torch.manual_seed(0)
    model, x = trained(build(SMALL[name], 5)), torch.randn(7, 3, 8, 8)
    assert error(for_inference(model, "int8", x)(x), plain_logits(model, x)) < 0.08


@pytest.mark.parametrize("name", ["preact", "sk", "pyramid-sk"])
def test_for_inference_refuses_other_blocks(name):
    with pytest.raises(InputError, match=f"does not know block {SMALL[name].block}") as caught:
        for_inference(build(SMALL[name], 5))
    assert "\n" not in str(caught.value)


def test_for_inference_in_int8_refuses_padded_shortcuts(monkeypatch):
    monkeypatch.setattr(quantized, "cpu_has_int8", lambda: True)
    with pytest.raises(InputError, match="precision int8 is not for widths pyramid"):
        for_inference(build(SMALL["pyramid"], 5), "int8", torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(("part", "name"), [("inference", "sk"), ("convolution", "basic"), ("convolution", "pyramid")])
def test_bench_refuses_parts_that_do_not_know_a_model(part, name):
    with pytest.raises(InputError, match=f"part {part} does not know block {SMALL[name].block}"):
        Plan(parts=(part,), model=SMALL[name])
    assert Plan(parts=("training", "memory"), model=SMALL[name]).model == SMALL[name]


def test_models_by_name():
    assert {"resnext29", "resnet30"} <= set(list_models())
    model = create_model("resnext11", classes=3)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    with pytest.raises(InputError, match="unknown model 'resnet18'"):
        create_model("resnet18")
