"""How long some work takes on a GPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch


def cuda_seconds(device: torch.device, work: Callable[[], Any], repeats: int = 10, rounds: int = 5) -> float:
    """Return the median seconds of some work on the GPU, recorded as a graph: launching it takes longer than it."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.cuda.device(device):
            replay = _recorded(work, repeats)
            return statistics.median([_timed(replay) / repeats for _ in range(rounds + 1)][1:])
    finally:
        torch.set_autocast_cache_enabled(before)


def _recorded(work: Callable[[], Any], repeats: int) -> Callable[[], None]:
    """Return what does the work several times over, without the host."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeats):
            work()
    return graph.replay


def _timed(work: Callable[[], None]) -> float:
    """Return the seconds of some work between two events on the GPU."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000
