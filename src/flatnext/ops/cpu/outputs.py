"""The memory that the kernels write their outputs into."""

from __future__ import annotations

from torch import Tensor

SLACK = 1024  # bytes


def empty(x: Tensor, channels: int, stride: int = 1) -> Tensor:
    """Return channels-last (N, channels, H / stride, W / stride) in the type of `x`, with whatever the memory holds.

    The memory is a little longer than the tensor. torch takes aligned memory, for which glibc asks for up to 96 bytes
    more than needed: the place of a tensor that was freed is too short for another one of its size. A gradient fits
    into the place of an output that has this slack; without it a process that keeps its memory grew by a fifth.
    """
    images, _, height, width = x.shape
    height, width = height // stride, width // stride
    memory = x.new_empty(images * channels * height * width + SLACK // x.element_size())
    shape = images, channels, height, width
    strides = height * width * channels, 1, width * channels, channels
    return x.new_empty(0).set_(memory.untyped_storage(), 0, shape, strides)
