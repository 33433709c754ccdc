"""The processor of this machine, and how threads wait on it. Without torch, before whose import it must come."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path

VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""The first is for any runtime. The second lets GNU's, which torch's Linux builds have, be awake for microseconds."""

DECISIONS = (*VARIABLES, "KMP_BLOCKTIME")
"""Where one of these is set, somebody has decided, and nothing is changed."""


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def processor_facts() -> str:
    """Return what Linux says of the processor, in `/proc/cpuinfo`; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def let_threads_sleep() -> None:
    """Let threads of this process and of its children sleep while they wait. It must come before torch is imported."""
    os.environ.update(sleeping(os.environ))


def sleeping(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which OpenMP's threads are awake for a moment and then sleep, while they wait.

    By default they stay awake for milliseconds. When another program needs that core, both wait for each other: two
    threads of training beside one busy process become up to eleven times slower.
    """
    return dict(environment) | ({} if any(name in environment for name in DECISIONS) else VARIABLES)


def awake(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what `sleeping` adds."""
    added = all(environment.get(name) == value for name, value in VARIABLES.items())
    return {name: value for name, value in environment.items() if not (added and name in VARIABLES)}
