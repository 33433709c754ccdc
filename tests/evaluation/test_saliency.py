"""Grad-CAM against class activation maps, against a plain computation in double precision, and its pictures."""

from __future__ import annotations

import base64
import io

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from predictors import predictor_of
from torch import nn
from torch.nn import functional as F

from flatnext.data import Split
from flatnext.errors import InputError
from flatnext.evaluation import explained_mistakes, grad_cam, most_confident_errors, overlay
from flatnext.models import Network, ResNeXt, for_inference
from flatnext.models.resnet import BasicBlock, PreActBlock

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = torch.tensor([0, 2, 1, 4, 4])


@pytest.fixture
def images():
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def predictor(model, precision="fp32", *, channels_last=True):
    return predictor_of(model, MEAN, STD, precision=precision, channels_last=channels_last)


def normalised(images):
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (images.double() / 255 - mean) / std


def network(block=None, **settings):
    """Return a small network with running statistics of its own, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if block is None:
            model = ResNeXt(blocks=(1, 2), cardinality=2, bottleneck_width=4, stem=8, classes=5)
        else:
            model = Network(block, [[8], [16, 16]], 1, 8, 5, **settings)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
    return model


class Pooled(nn.Module):
    """Convolutions, global average pooling and a linear layer."""

    def __init__(self, *, inplace=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 9, 3, 2, padding=1))
            self.relu = nn.ReLU(inplace) if inplace else nn.Identity()
            self.linear = nn.Linear(9, 5)

    def forward(self, x):
        return self.linear(self.relu(self.features(x)).mean((2, 3)))


def finished(heat, size=(16, 16)):
    """Return a coarse map (h x w, double) as `grad_cam` gives it: by PyTorch's resize of one picture at a time."""
    heat = F.interpolate(heat.clamp(min=0)[None, None], size=size, mode="bilinear")[0, 0]
    return heat / heat.max() if heat.max() > 0 else torch.zeros_like(heat)


def plain(model, layer, images, classes):
    """Return the maps by the formulas of the paper, an image at a time in double precision, with `backward`."""
    model = model.double().eval()
    maps = []
    for image, wanted in zip(normalised(images), classes.tolist(), strict=True):
        kept = []
        handle = layer.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out) or out.retain_grad())
        score = model(image[None])[0, wanted]
        handle.remove()
        score.backward()
        (activation,) = kept[0].detach()
        weights = [channel.sum() / channel.numel() for channel in kept[0].grad[0]]
        maps.append(finished(sum(w * a for w, a in zip(weights, activation, strict=True)), tuple(image.shape[1:])))
    return torch.stack(maps)


def test_equals_class_activation_maps_before_a_pooled_linear_layer(images):
    model = Pooled().double()
    found = grad_cam(predictor(model, "fp64"), images, CLASSES, layer=model.features)
    features = model.features(normalised(images)).detach()  # CAM: each channel weighted by the class's linear weight
    maps = torch.einsum("nk,nkhw->nhw", model.linear.weight.detach()[CLASSES], features)
    assert torch.allclose(found.double(), torch.stack([finished(each) for each in maps]), rtol=0, atol=1e-6)
    assert found.shape == (5, 16, 16)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("block", "settings"),
    [(None, {}), (BasicBlock, {}), (PreActBlock, {"stem_kernel": 3}), (BasicBlock, {"padded": True})],
    ids=["resnext", "basic", "preact", "padded"],
)
def test_equals_the_formulas_by_default_at_the_last_stage(images, block, settings):
    model = network(block, **settings)
    twin = network(block, **settings)
    expected = plain(twin, twin.layer2, images, CLASSES)
    assert expected.amax() == 1  # not all are zero
    for batch_size in (2, 32):
        found = grad_cam(predictor(model), images, CLASSES, batch_size=batch_size)
        assert torch.allclose(found.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["conv1", "bn1", "layer1", "layer1.0.conv2", "layer2.0.bn2", "layer2.1.conv3"])
def test_equals_the_formulas_at_any_layer(images, name):
    model, twin = network().double(), network()
    expected = plain(twin, twin.get_submodule(name), images, CLASSES)
    found = grad_cam(predictor(model, "fp64"), images, CLASSES, layer=model.get_submodule(name))
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-6)
    assert float(expected.amax()) == 1


def test_the_layer_may_be_changed_in_place(images):
    model, twin = Pooled(inplace=True), Pooled()
    twin.relu = nn.ReLU()
    expected = plain(twin, twin.features, images, CLASSES)
    found = grad_cam(predictor(model), images, CLASSES, layer=model.features)
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-4)


def test_in_bf16_it_is_nearly_the_same(images):
    model = network()
    found = grad_cam(predictor(model, "bf16", channels_last=False), images, CLASSES)
    assert (found - grad_cam(predictor(model), images, CLASSES)).abs().max() < 0.15


def test_a_map_lies_between_0_and_1_and_is_zero_where_nothing_is_positive(images):
    model = Pooled()
    with torch.no_grad():
        model.relu = nn.ReLU()
        model.linear.weight[0].fill_(-1)  # class 0 has nothing that speaks for it, class 1 has
        model.linear.weight[1].fill_(1)
    found = grad_cam(predictor(model), images[:2], torch.tensor([0, 1]), layer=model.relu)
    assert not found[0].any()
    assert found[1].min() >= 0
    assert found[1].max() == 1


def test_no_images():
    model = network()
    assert grad_cam(predictor(model), torch.zeros(0, 3, 8, 8).byte(), CLASSES[:0]).shape == (0, 8, 8)


def state_of(model):
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()],
        torch.is_grad_enabled(),
        torch.get_rng_state(),
    )


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("wrong", ["nothing", "class", "size", "layer"])
@pytest.mark.parametrize("grad", [True, False])
def test_leaves_the_model_as_it_was(images, wrong, grad):
    model = network()
    model(normalised(images).float()).sum().backward()  # gradients, and new running statistics
    model.layer1.eval()  # frozen, while the rest trains
    model.conv1.weight.requires_grad_(False)
    calls = []
    model.layer2.register_forward_hook(lambda *_: calls.append(1))
    layer = model.linear if wrong == "layer" else None
    classes = CLASSES + 1 if wrong == "class" else CLASSES
    shown = images[..., :15] if wrong == "size" else images
    with torch.set_grad_enabled(grad):
        before = state_of(model)
        if wrong == "nothing":
            grad_cam(predictor(model), shown, classes, layer=layer)
            assert calls == [1]  # one pass, and the caller's own hooks see it
        else:
            with pytest.raises(InputError):
                grad_cam(predictor(model), shown, classes, layer=layer)
        assert same(state_of(model), before)


def test_only_what_follows_the_layer_is_recorded(images):
    model, seen = network(), {}
    for name in ("conv1", "layer1", "linear"):
        layer = model.get_submodule(name)
        layer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out.requires_grad}))
    grad_cam(predictor(model), images, CLASSES)
    assert seen == {"conv1": False, "layer1": False, "linear": True}


def test_within_inference_mode(images):
    model = network()
    expected = grad_cam(predictor(model), images, CLASSES)
    with torch.inference_mode():
        assert torch.equal(grad_cam(predictor(model), images.clone(), CLASSES.clone()), expected)


class WithIdleLayer(nn.Module):
    """Has a layer whose output it does not use, and which it may not even run."""

    def __init__(self, used):
        super().__init__()
        self.inner, self.idle, self.used = Pooled(), nn.Conv2d(3, 4, 1), used

    def forward(self, x):
        if self.used:
            self.idle(x)
        return self.inner(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, i: grad_cam(predictor(m), i, CLASSES, layer=nn.ReLU()), "layer is a ReLU that is not in the model"),
        (lambda _, i: grad_cam(predictor(Pooled()), i, CLASSES), "Pooled has no stages: give its last one as layer"),
        (lambda m, i: grad_cam(predictor(m), i, CLASSES, layer=m.linear), r"layer gives \(5, 5\): give one"),
        (lambda m, i: grad_cam(predictor(m), i, CLASSES[:3]), r"classes are torch.int64 \(3,\): give .* \(5,\)"),
        (lambda m, i: grad_cam(predictor(m), i, CLASSES.int()), r"classes are torch.int32"),
        (lambda m, i: grad_cam(predictor(m), i, CLASSES - 1), "classes are outside"),
        (lambda m, i: grad_cam(predictor(m), i.float(), CLASSES), "give torch.uint8"),
        (lambda m, i: grad_cam(predictor(m), i, CLASSES, batch_size=0), "batch_size is 0"),
        (lambda m, i: overlay(i[0], torch.zeros(4, 4)), r"heat \(4, 4\)"),
    ],
)
def test_bad_input(images, call, message):
    with pytest.raises(InputError, match=message):
        call(network(), images)


@pytest.mark.parametrize(("used", "message"), [(True, "layer has no gradient"), (False, "layer does not run")])
def test_layers_that_say_nothing(images, used, message):
    model = WithIdleLayer(used)
    with pytest.raises(InputError, match=message):
        grad_cam(predictor(model), images, CLASSES, layer=model.idle)


def test_the_form_for_inference_gives_the_maps_of_its_last_layer(images):
    model = network()
    fast = for_inference(model, "fp32")
    found = grad_cam(predictor(fast), images, CLASSES, layer=fast.blocks)
    assert torch.allclose(found, grad_cam(predictor(model), images, CLASSES), rtol=0, atol=1e-4)


def test_a_model_that_diverged(images):
    model = network()
    nn.init.constant_(model.linear.bias, float("nan"))
    with pytest.raises(InputError, match="not finite"):
        grad_cam(predictor(model), images, CLASSES)


# Pictures


def opened(png):
    return np.asarray(Image.open(io.BytesIO(png))).astype(np.float64)


def test_overlay_is_the_colour_map_over_the_grey_image(images):
    heat = torch.linspace(0, 1, 256).view(16, 16)
    found = opened(overlay(images[0], heat))
    grey = np.einsum("c,chw->hw", [0.299, 0.587, 0.114], images[0].double().numpy())
    colours = mpl.colormaps["inferno"].colors  # 256 of them, of which `heat` asks for each once
    assert found.shape == (16, 16, 3)
    assert np.abs(found - (0.4 * grey[..., None] + 0.6 * 255 * np.reshape(colours, (16, 16, 3)))).max() <= 1.001


def test_mistakes_with_their_maps(images):
    model = network()
    split = Split(images, CLASSES)
    logits = predictor(model)(images)
    found = explained_mistakes(predictor(model), logits, split, 3)
    plain_mistakes = most_confident_errors(logits, split, 3)
    assert 1 < len(found) <= 3
    for mistake, expected in zip(found, plain_mistakes, strict=True):
        assert vars(expected).items() <= vars(mistake).items()
        image = images[mistake.index][None]
        for cam, label in ((mistake.cam, mistake.predicted), (mistake.cam_label, mistake.label)):
            (heat,) = grad_cam(predictor(model), image, torch.tensor([label]))
            assert np.abs(opened(base64.b64decode(cam)) - opened(overlay(image[0], heat))).max() <= 1


def test_no_mistakes(images):
    model = network()
    logits = predictor(model)(images)
    assert explained_mistakes(predictor(model), logits, Split(images, logits.argmax(dim=1))) == ()
