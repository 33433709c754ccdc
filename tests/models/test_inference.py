"""Copies for inference against the plain model, folding and quantisation against NumPy in double precision."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from network_oracle import Oracle, convolve
from networks import VARIANTS, error, plain_logits, trained
from torch import nn

import flatnext
from flatnext.config import Model
from flatnext.errors import InputError
from flatnext.models import ResNeXt, build, folded, for_inference, inference_copy, quantized
from flatnext.models.folded import Convolution, InferenceNet
from flatnext.models.imagenet import ResNet50
from flatnext.models.quantized import QuantizedConvolution, Scale

needs_int8 = pytest.mark.skipif(not quantized.cpu_has_int8(), reason="this CPU has no int8 dot products")
RESNEXT29_WIDTHS = {"blocks": (1, 1, 1)}
SHAPE = {"blocks": (2, 2), "cardinality": 2, "bottleneck_width": 4, "stem": 8}
SMALL = {**SHAPE, "classes": 5}
IDENTITY = {"blocks": (2,), "cardinality": 2, "bottleneck_width": 4, "stem": 16}
NETS = {"three-widths": (RESNEXT29_WIDTHS, 8), "small": (SMALL, 6), "identity": (IDENTITY, 7)}


def net(name="small"):
    settings, size = NETS[name]
    torch.manual_seed(0)
    return trained(ResNeXt(**settings)), torch.randn(9, 3, size, size)


def no_onednn(monkeypatch):
    monkeypatch.setattr(folded, "_has_fused", lambda _: False)


# The same logits


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", NETS)
def test_fp32_equals_the_model(name, fused, monkeypatch):
    if not fused:
        no_onednn(monkeypatch)
    model, images = net(name)
    logits = for_inference(model, "fp32")(images)
    assert logits.dtype == torch.float32
    assert error(logits, plain_logits(model, images)) < 1e-5


def test_fp32_equals_the_numpy_oracle():
    model, images = net()
    expected = Oracle(
        Model(**SHAPE), {name: value.double().numpy() for name, value in model.state_dict().items()}, training=False
    )
    logits = for_inference(model.double(), "fp32")(images.double()).double()
    assert error(logits, torch.from_numpy(expected.logits(images.double().numpy()))) < 1e-5


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", NETS)
def test_bf16_equals_the_model_to_its_digits(name, fused, monkeypatch):
    if not fused:
        no_onednn(monkeypatch)
    model, images = net(name)
    logits = for_inference(model, "bf16")(images)
    assert logits.dtype == torch.float32
    assert error(logits, plain_logits(model, images)) < 0.03  # bf16 rounds to 1 part in 256, a dozen times in a row


@needs_int8
@pytest.mark.parametrize("name", NETS)
def test_int8_is_near_the_model(name):
    model, images = net(name)
    logits = for_inference(model, "int8", calibration=images)(images)
    assert logits.dtype == torch.float32
    assert error(logits, plain_logits(model, images)) < 0.06


def test_imagenet_models_with_a_pool_in_the_stem():
    torch.manual_seed(0)
    model = trained(ResNet50(width=8, groups=2, classes=5))
    images = torch.randn(2, 3, 40, 36)
    assert error(for_inference(model, "fp32")(images), plain_logits(model, images)) < 1e-5
    if quantized.cpu_has_int8():
        assert error(for_inference(model, "int8", images)(images), plain_logits(model, images)) < 0.1


def test_auto_is_bf16_where_the_cpu_has_it_and_is_faster_in_it(monkeypatch):
    model, _ = net()
    for has, faster, dtype in (
        (True, True, torch.bfloat16),
        (True, False, torch.float32),
        (False, True, torch.float32),
    ):
        monkeypatch.setattr("flatnext.device.cpu_has_bf16", lambda has=has: has)
        monkeypatch.setattr("flatnext.device.cpu_is_faster_in_bf16", lambda faster=faster: faster)
        assert next(flatnext.for_inference(model).stem.buffers()).dtype == dtype
        assert flatnext.for_inference(model).linear.weight.dtype == torch.float32


# Blocks, stems and widths


@pytest.mark.parametrize("name", ["stem3", "basic", "pyramid", "pyramid-basic"])
def test_for_inference_equals_the_model(name):
    torch.manual_seed(0)
    model, x = trained(build(VARIANTS[name], 5)), torch.randn(7, 3, 8, 8)
    assert error(for_inference(model, "fp32")(x), plain_logits(model, x)) < 1e-5
    assert error(for_inference(model, "bf16")(x), plain_logits(model, x)) < 0.05


@needs_int8
@pytest.mark.parametrize("name", ["stem3", "basic"])
def test_for_inference_in_int8_is_near_the_model(name):
    torch.manual_seed(0)
    model, x = trained(build(VARIANTS[name], 5)), torch.randn(7, 3, 8, 8)
    assert error(for_inference(model, "int8", x)(x), plain_logits(model, x)) < 0.08


@pytest.mark.parametrize("name", ["preact", "sk", "pyramid-sk"])
def test_for_inference_refuses_other_blocks(name):
    with pytest.raises(InputError, match=f"does not know block {VARIANTS[name].block}") as caught:
        for_inference(build(VARIANTS[name], 5))
    assert "\n" not in str(caught.value)


def test_for_inference_in_int8_refuses_padded_shortcuts(monkeypatch):
    monkeypatch.setattr(quantized, "cpu_has_int8", lambda: True)
    with pytest.raises(InputError, match="precision int8 is not for widths pyramid"):
        for_inference(build(VARIANTS["pyramid"], 5), "int8", torch.randn(2, 3, 8, 8))


# Folding and rounding


def test_folded_weights_equal_numpy():
    model, _ = net()
    conv, norm = model.layer2[0].conv2, model.layer2[0].bn2
    weight, bias = folded.fold(conv, norm)
    mean, var, gamma, beta = (
        t.detach().numpy().astype(np.float64) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    scale = gamma / np.sqrt(var + norm.eps)
    expected = conv.weight.detach().numpy().astype(np.float64) * scale.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-14)
    np.testing.assert_allclose(bias.numpy(), beta - mean * scale, rtol=1e-13, atol=1e-14)


@needs_int8
@pytest.mark.parametrize("residual_scale", [None, Scale(0.03, 0), Scale(0.02, 90)], ids=["alone", "added", "with-zero"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "groups"),
    [(16, 32, 1, 1, 1), (16, 32, 1, 2, 1), (32, 32, 3, 1, 8), (64, 64, 3, 2, 4)],
)
def test_an_int8_convolution_is_integer_arithmetic(inputs, outputs, kernel, stride, groups, residual_scale):
    torch.manual_seed(0)
    plain = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
    conv = Convolution(plain, plain.weight.detach(), plain.bias.detach(), relu=residual_scale is not None)
    x_scale, y_scale = Scale(0.01, 0), Scale(0.02, 0 if residual_scale else 110)
    layer = QuantizedConvolution(conv, x_scale, y_scale, residual_scale)
    x = torch.randint(0, 256, (3, inputs, 6, 6), dtype=torch.uint8).to(memory_format=torch.channels_last)
    weight = layer.weight.double() * layer.weight_scale.double()[:, None, None, None]
    exact = convolve(0.01 * x.double().numpy(), weight.numpy(), stride, kernel // 2, groups)
    exact += plain.bias.detach().double().numpy()[:, None, None]
    residual = torch.randint(0, 256, exact.shape, dtype=torch.uint8).to(memory_format=torch.channels_last)
    if residual_scale is not None:
        exact = np.maximum(exact + residual_scale.scale * (residual.double().numpy() - residual_scale.zero), 0)
    expected = np.clip(np.round(exact / y_scale.scale) + y_scale.zero, 0, 255)
    found = layer(x, residual if residual_scale is not None else None).double().numpy()
    assert expected.std() > 5
    assert np.abs(found - expected).max() <= 1  # a half is rounded either way
    assert np.mean(found != expected) < 0.01
    assert (weight - conv.weight).abs().amax((1, 2, 3)).le(layer.weight_scale / 2 * 1.001).all()


def test_scales_span_the_range_and_know_zero():
    assert Scale.of_range(0, 5.1) == (pytest.approx(0.02), 0)
    assert Scale.of_range(-1, 4.1) == (pytest.approx(0.02), 50)
    assert Scale.of_range(2, 5.1).zero == 0
    assert Scale.of_range(0, 0).scale > 0


# As a module


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=needs_int8)])
def test_any_batch_and_image_size_after_the_first(precision):
    model, images = net()
    fast = for_inference(model, precision, images if precision == "int8" else None)
    with torch.inference_mode():
        fast(images)
    for batch in (images[:1], torch.randn(11, 3, 10, 4), torch.randn(3, 3, 6, 12)[:, :, :, ::2], images[:0]):
        logits = fast(batch)
        assert logits.shape == (len(batch), 5)
        if len(batch):
            assert error(logits, plain_logits(model, batch)) < 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=needs_int8)])
def test_a_copy_and_a_pickle_answer_the_same(precision):
    model, images = net()
    fast = for_inference(model, precision, images if precision == "int8" else None)
    logits = fast(images)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert isinstance(other, InferenceNet)
        assert torch.equal(other(images), logits)
    assert torch.equal(fast.to("cpu")(images), logits)


def test_the_type_can_be_changed_after_use():
    model, images = net()
    fast = for_inference(model, "fp32")
    fast(images)
    fast.stem.bfloat16()
    fast.blocks.bfloat16()
    assert torch.equal(fast(images), for_inference(model, "bf16")(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_types_that_onednn_does_not_take(dtype):
    model, images = net()
    fast = for_inference(model, "fp32").to(dtype)
    logits = fast(images.to(dtype))
    assert logits.dtype == dtype
    assert error(logits.float(), plain_logits(model, images)) < 0.02


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=needs_int8)])
def test_the_model_and_the_images_are_left_as_they_were(precision):
    model, images = net()
    model.train()
    before, kept = copy.deepcopy(model.state_dict()), images.clone()
    expected = plain_logits(copy.deepcopy(model).eval(), images)
    fast = for_inference(model, precision, images if precision == "int8" else None)
    assert error(fast(images), expected) < 0.06
    fast.linear.weight.zero_()
    assert model.training
    assert not fast.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(images, kept)


def test_autocast_around_it_changes_nothing():
    model, images = net()
    fast = for_inference(model, "fp32")
    expected = fast(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(images), expected)


def test_without_onednn(monkeypatch):
    model, images = net()
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert error(for_inference(model, "fp32")(images), plain_logits(model, images)) < 1e-5
    monkeypatch.setattr(folded.platform, "machine", lambda: "aarch64")
    assert not folded._cpu_has_fused.__wrapped__()


# What users can mend


def test_mistakes_are_named(monkeypatch):
    model, images = net()
    with pytest.raises(InputError, match=r"precision is 'fp16': choose auto, fp32"):
        for_inference(model, "fp16")
    with pytest.raises(InputError, match="calibration is for precision int8"):
        for_inference(model, "int8")
    with pytest.raises(InputError, match="calibration is for precision int8"):
        for_inference(model, "bf16", calibration=images)
    with pytest.raises(InputError, match="does not know Linear"):
        for_inference(nn.Linear(2, 2))
    with pytest.raises(InputError, match="image size is 7x6"):
        for_inference(model)(torch.randn(1, 3, 7, 6))
    with pytest.raises(InputError, match=r"images are torch.uint8"):
        for_inference(model)(torch.zeros(1, 3, 6, 6, dtype=torch.uint8))
    monkeypatch.setattr(quantized, "cpu_has_int8", lambda: True)
    with pytest.raises(InputError, match="calibration has no images"):
        for_inference(model, "int8", calibration=images[:0])
    monkeypatch.setattr(quantized, "cpu_has_int8", lambda: False)
    with pytest.raises(InputError, match="precision int8 needs"):
        for_inference(model, "int8", calibration=images)


class Doubled(nn.Linear):
    """A linear layer that does something else."""

    def forward(self, x):
        return 2 * super().forward(x)


def with_bias(model):
    model.conv1 = nn.Conv2d(3, 8, 1)
    with torch.no_grad():
        model.conv1.bias.fill_(0.5)


CHANGES = {
    "bias": with_bias,
    "padding": lambda model: setattr(model.layer1[0].conv2, "padding_mode", "circular"),
    "module": lambda model: model.layer2.append(nn.Tanh()),
    "hook": lambda model: model.layer2[1].register_forward_hook(lambda module, given, y: y / 2),
    "norm": lambda model: setattr(model.layer1[0], "bn1", nn.GroupNorm(2, 8)),
    "no statistics": lambda model: setattr(model.layer1[0], "bn1", nn.BatchNorm2d(8, track_running_stats=False)),
    "linear": lambda model: setattr(model, "linear", Doubled(32, 5)),
    "forward": lambda model: setattr(model.layer1[1], "forward", torch.relu),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_that_was_changed_is_not_folded(name):
    model, images = net()
    CHANGES[name](model)
    assert inference_copy(model.eval(), "fp32") is model
    model(images)  # it does run
    with pytest.raises(InputError, match=r"a network whose \S+ was changed: use the model itself"):
        for_inference(model)


def test_a_network_whose_layers_are_subclasses_is_folded():
    class Convolution3x3(nn.Conv2d):
        """As torch's, with a name of its own."""

    model, images = net()
    model.layer1[0].conv2.__class__ = Convolution3x3
    assert error(inference_copy(model.eval(), "fp32")(images), plain_logits(model, images)) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_gradients_by_the_images_are_the_models(name):
    model, images = net(name)
    wanted = images.clone().requires_grad_()
    model(wanted).square().sum().backward()
    found = images.clone().requires_grad_()
    for_inference(model, "fp32")(found).square().sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-4 * float(wanted.grad.abs().max()))


class TestInferenceCopy:
    def test_gives_the_logits_of_the_model(self):
        model, images = net()
        with torch.no_grad():
            torch.testing.assert_close(inference_copy(model, "fp32")(images), model(images), rtol=1e-4, atol=1e-4)
        assert isinstance(inference_copy(model, "bf16"), InferenceNet)

    def test_is_the_model_itself_where_a_copy_would_not(self):
        class Subclass(ResNeXt):
            def forward(self, images):
                return super().forward(images) + 7

        model, _ = net()
        changed, broken = copy.deepcopy(model), copy.deepcopy(model)
        changed.linear = nn.Identity()
        broken.conv1.weight.data[0] = torch.nan
        subclass = Subclass(**SMALL)
        for network, precision in ((subclass, "fp32"), (changed, "fp32"), (broken, "fp32"), (model.double(), "fp64")):
            assert inference_copy(network, precision) is network
        preact = flatnext.create_model("preact30")
        assert inference_copy(preact, "fp32") is preact


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("int8", marks=needs_int8)])
def test_other_weights_can_be_loaded_after_use(precision):
    (first, images), (second, _) = net(), net()
    for parameter in second.parameters():
        parameter.data.mul_(1.1)
    one, other = (for_inference(m, precision, images if precision == "int8" else None) for m in (first, second))
    one(images)
    if precision == "int8":  # the scales of the activations are no part of the state
        other = copy.deepcopy(one)
        state = {name: -value if name.endswith("weight") else value for name, value in one.state_dict().items()}
        other.load_state_dict(state)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(images), other(images))


def test_a_summary_of_the_copy():
    fast = for_inference(net()[0], "fp32").to("meta")
    assert fast(torch.empty(2, 3, 32, 32, device="meta")).shape[0] == 2
