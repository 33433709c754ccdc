"""Parameters, multiply-adds and sizes: against a formula, against torch, and against the baseline paper's Figure 2."""

from __future__ import annotations

import re

import pytest
import torch
from networks import SMALL_RESNEXT, VARIANTS, formula
from places import REPOSITORY
from torch.utils.flop_counter import FlopCounterMode

from flatnext import cli
from flatnext.config import MODELS
from flatnext.errors import InputError
from flatnext.models import ResNeXt, build, format_summary, parameter_count, resnext29, summarize
from flatnext.models.selective_kernel import SelectiveKernel

# Counts


def count(settings, classes=10, size=32):
    """Return parameters and multiply-adds by formula."""
    two_layers, out = settings.block in ("basic", "preact"), settings.stem
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
            into, out = out, width if two_layers else 2 * width
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
            first, middle, last = layers["resnext"][0]
            layers["sk"] = ([first, middle, middle, *attention, last], 3 * width + hidden + out)
            weights, norms = layers[settings.block]
            if settings.widths != "pyramid" and (into != out or before != side):
                weights, norms = [*weights, (into * out, side)], norms + (0 if settings.block == "preact" else out)
            parameters += sum(weight for weight, _ in weights) + 2 * norms
            work += sum(weight * pixels**2 for weight, pixels in weights)
    parameters += 2 * out if settings.block == "preact" else 0
    return parameters + out * classes + classes, work + out * classes


@pytest.mark.parametrize("name", [*MODELS, *VARIANTS])
def test_parameters_and_multiply_adds_equal_the_formula_and_torchs_count(name):
    settings = MODELS.get(name) or VARIANTS[name]
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
    assert parameter_count(build(VARIANTS["basic"], 5)) == 12 + 8 + first + second + third + 16 * 5 + 5 == 5913
    assert parameter_count(build(MODELS["resnext29-stem3"], 10)) == 4_761_770 + 8 * 3 * 32
    assert parameter_count(SelectiveKernel(96, 1, 32)) == 2 * (96 * 3 * 9 + 192) + 96 * 32 + 64 + 32 * 192 == 14_848


def test_named_models_are_near_the_baselines_in_parameters_and_within_the_budget():
    for name in MODELS.keys() - {"resnext20", "resnext11"}:
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


# The baseline paper's Figure 2. Its misprints are put right: outputs of stage 1, 32x32, and "133,072".

FIGURE2 = """
Conv2d 32x32 96, BatchNorm2d 32x32 64,
Conv2d 128x32 4096, BatchNorm2d 128x32 256, Conv2d 128x32 4608, BatchNorm2d 128x32 256,
Conv2d 256x32 32768, BatchNorm2d 256x32 512, Conv2d 256x32 8192, BatchNorm2d 256x32 512, Block 256x32 0,
Conv2d 128x32 32768, BatchNorm2d 128x32 256, Conv2d 128x32 4608, BatchNorm2d 128x32 256,
Conv2d 256x32 32768, BatchNorm2d 256x32 512, Block 256x32 0,
Conv2d 128x32 32768, BatchNorm2d 128x32 256, Conv2d 128x32 4608, BatchNorm2d 128x32 256,
Conv2d 256x32 32768, BatchNorm2d 256x32 512, Block 256x32 0,
Conv2d 256x32 65536, BatchNorm2d 256x32 512, Conv2d 256x16 18432, BatchNorm2d 256x16 512,
Conv2d 512x16 131072, BatchNorm2d 512x16 1024, Conv2d 512x16 131072, BatchNorm2d 512x16 1024, Block 512x16 0,
Conv2d 256x16 131072, BatchNorm2d 256x16 512, Conv2d 256x16 18432, BatchNorm2d 256x16 512,
Conv2d 512x16 131072, BatchNorm2d 512x16 1024, Block 512x16 0,
Conv2d 256x16 131072, BatchNorm2d 256x16 512, Conv2d 256x16 18432, BatchNorm2d 256x16 512,
Conv2d 512x16 131072, BatchNorm2d 512x16 1024, Block 512x16 0,
Conv2d 512x16 262144, BatchNorm2d 512x16 1024, Conv2d 512x8 73728, BatchNorm2d 512x8 1024,
Conv2d 1024x8 524288, BatchNorm2d 1024x8 2048, Conv2d 1024x8 524288, BatchNorm2d 1024x8 2048, Block 1024x8 0,
Conv2d 512x8 524288, BatchNorm2d 512x8 1024, Conv2d 512x8 73728, BatchNorm2d 512x8 1024,
Conv2d 1024x8 524288, BatchNorm2d 1024x8 2048, Block 1024x8 0,
Conv2d 512x8 524288, BatchNorm2d 512x8 1024, Conv2d 512x8 73728, BatchNorm2d 512x8 1024,
Conv2d 1024x8 524288, BatchNorm2d 1024x8 2048, Block 1024x8 0
"""


def test_figure_2_to_the_row():
    expected = []
    for number, row in enumerate(FIGURE2.split(","), start=1):
        kind, shape, parameters = row.split()
        channels, side = map(int, shape.split("x"))
        expected.append((f"{kind}-{number}", (channels, side, side), int(parameters)))
    expected.append(("Linear-72", (10,), 10_250))
    assert [(row.name, row.shape, row.parameters) for row in summarize(resnext29(), 32).layers] == expected


def test_figure_2_as_text():
    lines = format_summary(summarize(resnext29(), 32)).splitlines()
    assert "Conv2d-30 [-1, 512, 16, 16] 131,072 33,554,432" in [" ".join(line.split()) for line in lines]
    for line in (
        "Total params: 4,761,770",
        "Trainable params: 4,761,770",
        "Non-trainable params: 0",
        "Mult-adds: 759,801,856",
        "Input size (MB): 0.01",
        "Forward/backward pass size (MB): 64.50",
        "Params size (MB): 18.16",
        "Estimated Total Size (MB): 82.68",
    ):
        assert line in lines


# The model and its errors


@pytest.mark.parametrize("size", [-4, 0, 30])
def test_an_image_size_that_the_model_does_not_take_has_no_summary(size):
    with pytest.raises(InputError, match=f"image.size is {size}"):
        summarize(resnext29(), size)


def test_summarize_leaves_the_model_as_it_is():
    model = formula(ResNeXt(**SMALL_RESNEXT).double())
    model.linear.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summary = summarize(model, 8)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert summary.parameters - summary.trainable == model.linear.weight.numel()
