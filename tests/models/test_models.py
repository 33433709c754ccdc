import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from oracle_resnext import Oracle
from torch.utils.flop_counter import FlopCounterMode

from flatnext.config import Model
from flatnext.errors import InputError
from flatnext.models import (
    ResNeXt,
    build,
    format_summary,
    load_weights,
    parameter_count,
    resnext29,
    summarize,
    table1,
)
from flatnext.models.imagenet import resnet50, resnext50_32x4d

SMALL = {"blocks": (1, 2), "cardinality": 4, "bottleneck_width": 2, "stem": 8, "classes": 5}


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
    index = torch.arange(count * 3 * size * size, dtype=torch.float64)
    return torch.sin(index * index % 9973).reshape(count, 3, size, size).to(dtype)


NETS = {
    "resnext29": ({}, 32),
    "resnext29-20px": ({}, 20),
    "small": (SMALL, 6),
    "one-group": ({"blocks": (2, 1, 1), "cardinality": 1, "bottleneck_width": 6, "stem": 5}, 16),
    "one-stage-identity": ({"blocks": (2,), "cardinality": 2, "bottleneck_width": 4, "stem": 16}, 7),
    "four-stages": ({"blocks": (1, 1, 2, 1), "cardinality": 3, "bottleneck_width": 2, "stem": 4, "classes": 100}, 8),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("net", NETS)
def test_logits_and_statistics_equal_the_numpy_oracle(net, training):
    settings, size = NETS[net]
    model = formula(ResNeXt(**settings).double()).train(training)
    oracle = Oracle({k: v.numpy() for k, v in model.state_dict().items()}, settings.get("cardinality", 32), training)
    x = images(2, size)
    expected = oracle.logits(x.numpy())
    with torch.no_grad():
        logits = model(x).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-9)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), oracle.state[name], rtol=0, atol=1e-9, err_msg=name)
    assert model.bn1.num_batches_tracked == 7 + training


def test_state_dict_has_the_names_of_the_reports_code():
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


@pytest.mark.parametrize("shape", [(30, 32), (32, 31), (33, 33)])
def test_image_size_that_does_not_divide_is_refused(shape):
    with pytest.raises(InputError, match=rf"{shape[0]}x{shape[1]}: give sides that are multiples of 4"):
        resnext29()(torch.zeros(2, 3, *shape))


@pytest.mark.parametrize("shape", [(4, 4), (8, 20)])
def test_any_size_that_divides_is_taken(shape):
    assert ResNeXt((1, 1, 1), 2, 2, 4, 6)(torch.zeros(2, 3, *shape)).shape == (2, 6)


def test_channels_last_autocast_and_compile_agree_with_plain():
    model, x = formula(ResNeXt(**SMALL)).eval(), images(4, 8, torch.float32)
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


# Parameter budget


def test_the_reports_model_is_within_the_budget():
    assert parameter_count(build(Model(), classes=10)) == 4_761_770


def test_a_model_at_the_budget_is_built_and_one_above_is_refused():
    build(Model(parameter_budget=4_761_770), classes=10)
    with pytest.raises(InputError, match=r"4,761,770 parameters, 1 more than parameter_budget 4,761,769: lower blocks"):
        build(Model(parameter_budget=4_761_769), classes=10)


@pytest.mark.parametrize("width", [40_000, 10**10, 10**30])
def test_a_model_that_no_memory_could_hold_is_refused(width):
    with pytest.raises(InputError, match="lower blocks, cardinality, bottleneck_width"):
        build(Model(bottleneck_width=width), classes=10)


def test_a_model_without_classes_is_refused():
    with pytest.raises(InputError, match="classes is 0: give at least 1"):
        build(Model(), classes=0)


# The report's Figure 2. Its misprints are put right: outputs of stage 1, 32x32, and "133,072".

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


@pytest.mark.parametrize(
    ("make", "size"), [(resnext29, 32), (lambda: ResNeXt(**SMALL), 6), (resnet50, 64), (resnext50_32x4d, 64)]
)
def test_multiply_adds_are_half_of_torchs_flops(make, size):
    with torch.device("meta"):
        model, x = make(), torch.empty(1, 3, size, size)
    counter = FlopCounterMode(display=False)
    with counter:
        model(x)
    assert summarize(model, size).multiply_adds * 2 == counter.get_total_flops()


@pytest.mark.parametrize("size", [-4, 0, 30])
def test_an_image_size_that_the_model_does_not_take_has_no_summary(size):
    with pytest.raises(InputError, match=f"image.size is {size}"):
        summarize(resnext29(), size)


def test_summarize_leaves_the_model_as_it_is():
    model = formula(ResNeXt(**SMALL).double())
    model.linear.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    summary = summarize(model, 8)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert summary.parameters - summary.trainable == model.linear.weight.numel()


# The report's Table 1


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


# Weights files


def report_checkpoint(model, prefix=""):
    return {"model": {prefix + k: v for k, v in model.state_dict().items()}, "acc": 90.3, "epoch": 65}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_of_the_reports_code_loads(tmp_path, prefix, zipped):
    source, model = formula(resnext29()), resnext29()
    path = tmp_path / "ckpt.pth"
    torch.save(report_checkpoint(source, prefix), path, _use_new_zipfile_serialization=zipped)
    assert load_weights(path, model) == {"acc": 90.3, "epoch": 65}
    x = images(2, 8, torch.float32)
    assert torch.equal(source.eval()(x), model.eval()(x))


def test_a_bare_state_dict_loads(tmp_path):
    source, model = formula(ResNeXt(**SMALL)), ResNeXt(**SMALL)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    assert load_weights(tmp_path / "weights.pt", model) == {}
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


def test_safetensors_load_with_their_metadata_into_the_models_own_dtype_and_layout(tmp_path):
    source = formula(ResNeXt(**SMALL))
    path = tmp_path / "last.safetensors"
    safetensors.torch.save_file(source.state_dict(), path, {"epoch": "3"})
    model = ResNeXt(**SMALL).double().to(memory_format=torch.channels_last)
    assert load_weights(path, model) == {"epoch": "3"}
    assert all(torch.equal(value, model.state_dict()[name].to(value)) for name, value in source.state_dict().items())
    weight = model.get_submodule("layer1.0.conv2").weight
    assert weight.dtype == torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)


class _Call:
    """A pickle of this creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damaged(make):
    def write(path, model):
        make(path, model)
        _truncate(path)

    return write


def _state(**changes):
    """Return a writer of the model's state with some entries changed, or left out where the change is None."""

    def write(path, model):
        state = {**model.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
        torch.save({name: value for name, value in state.items() if value is not None}, path)

    return write


def _safetensors(path, model):
    safetensors.torch.save_file(model.state_dict(), path)


WEIGHTS_ERRORS = {
    "missing": (lambda path, model: None, "does not exist"),
    "folder": (lambda path, model: path.mkdir(), "Is a directory"),
    "empty": (lambda path, model: path.touch(), "not a weights file"),
    "text": (lambda path, model: path.write_text("accuracy 90.3 at epoch 65\n"), "not a weights file"),
    "json": (lambda path, model: path.write_text('12345678{"accuracy": 90.3}'), "safetensors"),
    "noise": (lambda path, model: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not a weights file"),
    "zip": (lambda path, model: path.write_bytes(b"PK\3\4" + bytes(500)), "not a weights file"),
    "truncated torch": (_damaged(_state()), "damaged"),
    "truncated safetensors": (_damaged(_safetensors), "truncated"),
    "number": (lambda path, model: torch.save(3, path), "no state dict"),
    "numbers": (lambda path, model: torch.save({"model": {"conv1.weight": 3.0}}, path), "no state dict"),
    "nothing in it": (lambda path, model: torch.save({}, path), "[0-9]+ missing"),
    "missing entry": (_state(linear__bias=None), "1 missing \\(linear.bias\\)"),
    "unexpected entry": (_state(head__bias=torch.zeros(5)), "1 unexpected \\('head.bias'\\)"),
    "shape": (_state(linear__bias=torch.zeros(7)), r"1 of another shape \(linear.bias \(7,\) instead of \(5,\)\)"),
    "sparse": (_state(linear__bias=torch.zeros(5, device="meta")), "without plain values"),
    "newline in a name": (_state(**{"a\nb": torch.zeros(1)}), "1 unexpected"),
    "another model": (
        lambda path, model: torch.save(report_checkpoint(resnext29()), path),
        r"\('layer1.1.conv1.weight', .*\.\.\.\); [0-9]+ of another shape \(conv1.weight \(32, 3, 1, 1\) instead of",
    ),
    "another model, safetensors": (
        lambda path, model: safetensors.torch.save_file(ResNeXt(**{**SMALL, "classes": 6}).state_dict(), path),
        r"2 of another shape \(linear.weight \(6, 32\) instead of \(5, 32\), linear.bias",
    ),
    "call": (lambda path, model: torch.save({"model": _Call(path.with_name("called"))}, path), "could run code"),
    "plain pickle": (lambda path, model: path.write_bytes(pickle.dumps(_Call(path.with_name("called")))), "run code"),
}


@pytest.mark.parametrize("case", WEIGHTS_ERRORS)
def test_bad_weights_files_are_refused_in_one_line_and_leave_the_model(tmp_path, case):
    write, message = WEIGHTS_ERRORS[case]
    model, path = formula(ResNeXt(**SMALL)), tmp_path / "weights.pt"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    write(path, formula(ResNeXt(**SMALL)))
    with pytest.raises(InputError, match=message) as caught:
        load_weights(path, model)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not (tmp_path / "called").exists()
