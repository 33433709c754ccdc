"""What the process asks of its machine."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

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
