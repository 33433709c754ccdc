"""What the process asks of its machine."""

from __future__ import annotations

import ctypes
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


@pytest.mark.parametrize("fast", [torch.bfloat16, torch.float32])
def test_which_precision_is_faster_is_measured_beside_other_work(monkeypatch, fast):
    clock, calls = [0.0], []

    def mm(left, right):
        assert left.shape == right.shape == (device.PROBE, device.PROBE)
        assert not torch.is_autocast_enabled("cpu")  # which would make the product in bf16 whatever its factors
        calls.append(left.dtype)
        clock[0] += (1.0 if left.dtype == fast else 2.0) + (0.0 if len(calls) in (6, 7) else 5.0)  # seldom free
        return left

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(device.time, "perf_counter", lambda: clock[0])
    device.cpu_is_faster_in_bf16.cache_clear()
    try:
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16):
                assert device.cpu_is_faster_in_bf16() == (fast == torch.bfloat16)
    finally:
        device.cpu_is_faster_in_bf16.cache_clear()
    assert calls == [torch.bfloat16, torch.float32] * device.PROBES  # once in a process


def test_the_measurement_leaves_the_caller_alone():
    state, enabled = torch.get_rng_state(), torch.is_autocast_enabled("cpu")
    device.cpu_is_faster_in_bf16.cache_clear()
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        assert device.cpu_is_faster_in_bf16() in (False, True)
        assert torch.is_autocast_enabled("cpu")
    assert torch.is_autocast_enabled("cpu") == enabled
    assert torch.equal(torch.get_rng_state(), state)
