"""ResNet-50 and ResNeXt-50, and the baseline paper's Table 1."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flatnext.models import parameter_count, summarize, table1
from flatnext.models.imagenet import resnet50, resnext50_32x4d


@pytest.mark.parametrize("make", [resnet50, resnext50_32x4d])
def test_multiply_adds_are_half_of_torchs_flops(make):
    with torch.device("meta"):
        model, x = make(), torch.empty(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert summarize(model, 64).multiply_adds * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    ("make", "parameters", "multiply_adds", "width"),
    [(resnet50, 25_557_032, 4.09e9, 64), (resnext50_32x4d, 25_028_904, 4.23e9, 128)],
)
def test_imagenet_models(make, parameters, multiply_adds, width):
    with torch.device("meta"):
        model = make()
    assert parameter_count(model) == parameters
    assert summarize(model, 224).multiply_adds == pytest.approx(multiply_adds, abs=0.005e9)
    state = model.state_dict()
    assert len(state) == 320
    assert state["layer1.0.conv1.weight"].shape == (width, 64, 1, 1)
    assert state["layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1)
    assert state["layer3.5.bn3.running_var"].shape == (1024,)
    assert state["fc.weight"].shape == (1000, 2048)


def test_table_1_as_text():
    rows = [re.split(r"  +", line.strip()) for line in table1().splitlines()]
    for row in (
        ["stage", "output", "ResNet-50", "ResNeXt-50 (32x4d)"],
        ["conv1", "112x112", "7x7, 64, stride 2", "7x7, 64, stride 2"],
        ["conv2", "56x56", "3x3 max pool, stride 2", "3x3 max pool, stride 2"],
        ["[ 3x3, 64", "] x 3", "[ 3x3, 128, C=32 ] x 3"],
        ["conv3", "28x28", "[ 1x1, 128 ]", "[ 1x1, 256", "]"],
        ["[ 3x3, 128 ] x 4", "[ 3x3, 256, C=32 ] x 4"],
        ["conv4", "14x14", "[ 1x1, 256", "]", "[ 1x1, 512", "]"],
        ["[ 3x3, 256", "] x 6", "[ 3x3, 512, C=32 ] x 6"],
        ["conv5", "7x7", "[ 1x1, 512", "]", "[ 1x1, 1024", "]"],
        ["[ 3x3, 512", "] x 3", "[ 3x3, 1024, C=32 ] x 3"],
        ["[ 1x1, 2048 ]", "[ 1x1, 2048", "]"],
        ["1x1", "global average pool", "global average pool"],
        ["1000-d fc, softmax", "1000-d fc, softmax"],
        ["# params.", "25.56 x 10^6", "25.03 x 10^6"],
        ["FLOPs", "4.09 x 10^9", "4.23 x 10^9"],
    ):
        assert row in rows
