"""The forms of the grouped convolution give what torch's gives, forward and backward."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook

from flatnext import ops
from flatnext.errors import InputError
from flatnext.ops import grouped_convolution
from flatnext.ops.cuda import grouped
from flatnext.ops.layers import has_common_form
from flatnext.ops.merge import MergeGroups

WIDTHS = [128, 256, 512]
GROUPS = 32


def inputs(width, size=6, images=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, width, size, size, generator=generator, dtype=torch.float64)
    weight = torch.randn(width, width // GROUPS, 3, 3, generator=generator, dtype=torch.float64) / 6
    return (t.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, weight))


def passes(convolution, x, weight):
    """Return output and gradients, for a gradient of the output that is not the same everywhere."""
    y = convolution(x, weight)
    upstream = torch.arange(y.numel(), dtype=y.dtype).view(y.shape).remainder(7) - 3
    return [y.detach(), *torch.autograd.grad(y, (x, weight), upstream)]


def plain(stride):
    return lambda x, w: F.conv2d(x, w, stride=stride, padding=1, groups=w.shape[0] // w.shape[1])


@pytest.mark.parametrize("form", ["merged16", "merged32"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
def test_merged_groups_are_the_same(width, stride, form):
    x, weight = inputs(width)
    if form not in grouped.forms(x, weight, GROUPS):
        assert (width, form) == (512, "merged16")  # is that already
        pytest.skip("the groups have 16 channels")
    found = passes(lambda x, w: grouped.grouped_conv2d(x, w, stride, GROUPS, form), x, weight)
    for a, b in zip(found, passes(plain(stride), x, weight), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))
    assert found[2].stride() == weight.stride()


def test_merged_groups_equal_a_matrix_made_by_hand():
    _, weight = inputs(128, dtype=torch.float64)
    merged = MergeGroups.apply(weight, GROUPS, 4, torch.float64)
    assert merged.shape == (128, 16, 3, 3)
    for output in range(128):
        start = output // 4 % 4 * 4
        assert torch.equal(merged[output, start : start + 4], weight[output])
        assert merged[output].count_nonzero() == weight[output].numel()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(
            lambda w: MergeGroups.apply(w, 2, 2, torch.float64), torch.randn(4, 2, 3, 3).double().requires_grad_()
        )


@pytest.mark.parametrize("form", ["merged16", "merged32"])
def test_under_autocast_merged_groups_have_the_plain_forms_types(form):
    x, weight = inputs(128)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (
            passes(convolution, x, weight)
            for convolution in (lambda x, w: grouped.grouped_conv2d(x, w, 1, GROUPS, form), plain(1))
        )
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2 * float(b.abs().max()))
    assert ours[0].dtype == torch.bfloat16
    assert ours[2].dtype == torch.float32


def test_a_form_that_does_not_fit_is_an_input_error():
    x, weight = inputs(512)
    for form in ("merged16", "direct16", "round"):
        with pytest.raises(InputError, match=f"{form}.*plain, merged32"):
            grouped.grouped_conv2d(x, weight, 1, GROUPS, form)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"plain": 3.0, "merged16": 1.0, "merged32": 2.0}, "merged16"),
        ({"plain": 1.0, "merged16": 2.0, "merged32": 3.0}, "plain"),
        ({"plain": 1.0, "merged16": 0.99, "merged32": 1.0}, "plain"),  # not worth it
    ],
)
def test_the_fastest_form_is_measured_once_a_shape(monkeypatch, times, expected):
    monkeypatch.setattr(grouped, "_fastest", {})
    x, weight = inputs(128)
    measured = []

    def seconds(work):
        work()
        measured.append(work.args[-1])
        return times[measured[-1]]

    for _ in range(2):
        assert grouped.fastest_form(x, weight, 1, GROUPS, seconds) == expected
    assert measured == ["plain", "merged16", "merged32"]
    grouped.fastest_form(x, weight, 2, GROUPS, seconds)
    assert len(measured) == 6


def test_a_form_that_does_not_run_is_left_out(monkeypatch):
    monkeypatch.setattr(grouped, "_fastest", {})
    x, weight = inputs(128)

    def seconds(work, broken=("merged16",)):
        if work.args[-1] in broken:
            raise RuntimeError("no kernel image")
        return {"plain": 3.0, "merged16": 1.0, "merged32": 2.0}[work.args[-1]]

    with pytest.warns(UserWarning, match="do not run in the form merged16, which is left out: no kernel image"):
        assert grouped.fastest_form(x, weight, 1, GROUPS, seconds) == "merged32"
    with pytest.raises(RuntimeError, match="no kernel image"):
        grouped.fastest_form(x, weight, 2, GROUPS, functools.partial(seconds, broken=("plain",)))


def test_one_form_alone_can_be_asked_for():
    x, weight = inputs(512)
    with grouped.only("merged32"):
        assert grouped.fastest_form(x, weight, 1, GROUPS) == "merged32"
    with grouped.only("merged16"):
        assert grouped.fastest_form(x, weight, 1, GROUPS) == "plain"  # it does not fit
    assert grouped.fastest_form(x, weight, 1, GROUPS) == "plain"
    with pytest.raises(InputError, match="round"), grouped.only("round"):
        pass


def test_on_a_cpu_without_kernels_the_layer_itself_is_called():
    layer = nn.Conv2d(128, 128, 3, padding=1, groups=32, bias=False)
    x, _ = inputs(128)
    with ops.disabled():
        assert torch.equal(grouped_convolution(layer, x), layer(x))
    assert grouped.fastest_form(x, layer.weight, 1, GROUPS) == "plain"
    assert not grouped._fastest


def forward_mode(function, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x.detach(), x.detach()))).tangent


WAYS = {
    "as it is": lambda function, x: function(x),
    "off": ops.disabled()(lambda function, x: function(x)),
    "traced": lambda function, x: torch.jit.trace(function, x, check_trace=False)(x),
    "torch.func": lambda function, x: torch.func.vmap(function)(x[None])[0],
    "forward mode": forward_mode,
    "subclass": lambda function, x: function(nn.Parameter(x.detach())),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.parametrize("way", WAYS)
def test_where_torch_has_to_see_its_own_operations_it_does_on_a_gpu_as_well(monkeypatch, way):
    """Tensors of a CPU stand for those of a GPU."""
    layer, (x, _) = nn.Conv2d(128, 128, 3, padding=1, groups=32, bias=False).requires_grad_(False), inputs(128)
    expected, merged = layer(x), []
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))
    monkeypatch.setattr(ops.layers, "grouped_conv2d", lambda x, *_: merged.append(way) or layer(x))
    found = WAYS[way](lambda x: grouped_convolution(layer, x), x)
    torch.testing.assert_close(found, expected)
    assert merged == (["as it is"] if way == "as it is" else [])


@pytest.mark.parametrize(
    "change",
    [
        {"bias": True},
        {"groups": 1},
        {"padding": 0},
        {"dilation": 2},
        {"padding_mode": "circular"},
        {"stride": 3},
        {"kernel_size": 5},
    ],
    ids=str,
)
def test_other_convolutions_stay_as_they_are(change):
    options = {"kernel_size": 3, "padding": 1, "groups": 32, "bias": False}
    assert has_common_form(nn.Conv2d(128, 128, **options))
    assert not has_common_form(nn.Conv2d(128, 128, **{**options, **change}))
    watched = nn.Conv2d(128, 128, **options)
    watched.register_forward_hook(lambda *_: None)
    assert not has_common_form(watched)
    watched = nn.Conv2d(128, 128, **options)
    watched.register_full_backward_pre_hook(lambda *_: None)
    assert not has_common_form(watched)
    handle = register_module_forward_hook(lambda *_: None)
    assert not has_common_form(nn.Conv2d(128, 128, **options))
    handle.remove()
    assert has_common_form(nn.Conv2d(128, 128, **options))


def test_what_stands_in_its_place_does_its_own_work():
    class Doubled(nn.Conv2d):
        def forward(self, images):
            return 2 * super().forward(images)

    options = {"kernel_size": 3, "padding": 1, "groups": 32, "bias": False}
    assert not has_common_form(Doubled(128, 128, **options))
    assert not has_common_form(nn.Identity())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_our_kernels_are_for_16_bits(monkeypatch, dtype):
    monkeypatch.setattr(grouped, "_has_triton", lambda: True)

    class OnGpu:  # what `forms` asks of a tensor there
        is_cuda, shape, device = True, (2, 128, 6, 6), torch.device("cuda")

        def __init__(self):
            self.dtype = dtype

        def is_contiguous(self, memory_format):
            return True

        def numel(self):
            return 9216

    direct = [form for form in grouped.forms(OnGpu(), [*inputs(128)][1], GROUPS) if "direct" in form]
    assert bool(direct) == (dtype == torch.bfloat16)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_form_on_a_gpu(width, stride):
    x, weight = (t.detach().cuda().requires_grad_() for t in inputs(width, size=8, images=4))
    layer = nn.Conv2d(width, width, 3, stride, 1, groups=GROUPS, bias=False).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        expected = None
        for form in grouped.forms(x.bfloat16(), weight, GROUPS):
            y = grouped.grouped_conv2d(x.bfloat16(), weight, stride, GROUPS, form)
            found = [y.detach(), *torch.autograd.grad(y.float().square().sum(), (x, weight))]
            expected = expected or copy.copy(found)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2 * float(b.abs().max()))
        assert grouped_convolution(layer, x.bfloat16()).shape == y.shape
    assert grouped._fastest
