"""The Triton kernels of the grouped convolution against torch, by Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined
pytest.importorskip("triton")
grouped_triton = pytest.importorskip("flatnext.ops.cuda.triton_grouped")

pytestmark = [
    pytest.mark.skipif(
        DEVICE == "cpu" and np.lib.NumpyVersion(np.__version__) >= "2.4.0", reason="the interpreter fails"
    ),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # its, with older ones
]

SHAPES = [(1, 32, 8, 5, 6), (2, 32, 4, 8, 4), (2, 32, 2, 7, 7), (3, 64, 16, 4, 4)]  # images, channels, groups, H, W


# The interpreter multiplies bf16 as if it were whole numbers; float16 takes the same way through the kernels.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16 if DEVICE == "cuda" else torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("wide", [16, 32])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_torchs(shape, stride, wide, layout, dtype):
    images, channels, groups, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, height, width, generator=generator).to(DEVICE, dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, channels // groups, 3, 3, generator=generator).to(DEVICE)
    weight = weight.contiguous(memory_format=layout).requires_grad_()
    y = grouped_triton.convolution(x, weight, stride, groups, wide)
    # In double precision, with the weight rounded as the kernel rounds it.
    exact = x.detach().double().requires_grad_(), weight.detach().to(dtype).double().requires_grad_()
    expected = F.conv2d(*exact, stride=stride, padding=1, groups=groups)
    upstream = torch.randn(y.shape, generator=generator).to(DEVICE, dtype)
    found = [y, *torch.autograd.grad(y, (x, weight), upstream)]
    wanted = [expected, *torch.autograd.grad(expected, exact, upstream.double())]
    for a, b, kind in zip(found, wanted, (dtype, dtype, torch.float32), strict=True):
        assert a.dtype == kind
        tolerance = 1e-5 if kind == torch.float32 else 1e-2
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert found[2].stride() == weight.stride()


def test_many_chunks_of_pixels_add_up():
    kind = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # see above
    x = torch.randn(4, 16, 24, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE, kind)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(16, 4, 3, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE, kind)
    found = torch.autograd.grad(grouped_triton.convolution(x, weight, 1, 4), weight, upstream)[0]
    exact = weight.detach().double().requires_grad_()
    expected = F.conv2d(x.double(), exact, padding=1, groups=4)
    wanted = torch.autograd.grad(expected, exact, upstream.double())[0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_a_gradient_is_torchs():
    x = torch.randn(2, 32, 6, 5, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(32, 8, 3, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE).requires_grad_()

    def second(convolution, *leaves):
        gradients = torch.autograd.grad((convolution(*leaves) ** 3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in gradients), leaves)

    found = second(lambda x, w: grouped_triton.convolution(x, w, 2, 4), x, weight)
    exact = (t.detach().double().requires_grad_() for t in (x, weight))
    wanted = second(lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=4), *exact)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))
