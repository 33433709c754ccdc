"""What the process asks of its machine."""

from __future__ import annotations

import ctypes
import time
from types import SimpleNamespace

import pytest
import torch

from flatnext import device


@pytest.mark.parametrize("most", [2**40, 2**25, 0])
def test_memory_is_kept_where_the_c_library_lets_it(monkeypatch, most):
    """glibc took thresholds of 32 MiB at most; to keep the top of the heap alone would then only do harm."""
    accepted = {}

    def mallopt(option, value):
        if option == device.M_MMAP_THRESHOLD and value > most:
            return 0
        accepted[option] = value
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    device.keep_memory()
    assert accepted.get(device.M_MMAP_THRESHOLD) == (min(most, 2**30) or None)
    assert (device.M_TRIM_THRESHOLD in accepted) == (most > 0)


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    device.keep_memory()


@pytest.mark.parametrize("slow", [torch.bfloat16, torch.float32])
def test_which_precision_is_faster_is_measured_beside_other_work(monkeypatch, slow):
    product, calls = torch.mm, []

    def mm(left, right):
        calls.append(left.dtype)
        time.sleep(0.02 if left.dtype == slow or len(calls) % 5 else 0.0)  # the machine is seldom free
        return product(left, right)

    monkeypatch.setattr(torch, "mm", mm)
    state = torch.get_rng_state()
    device.cpu_is_faster_in_bf16.cache_clear()
    try:
        assert device.cpu_is_faster_in_bf16() == (slow == torch.float32)
        assert device.cpu_is_faster_in_bf16() == (slow == torch.float32)
    finally:
        device.cpu_is_faster_in_bf16.cache_clear()
    assert len(calls) == 2 * device.PROBES  # once in a process
    assert torch.equal(torch.get_rng_state(), state)
