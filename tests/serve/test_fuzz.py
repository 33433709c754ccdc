"""Whatever is sent: an answer or a refusal, never a failure, and no growth."""

import asyncio
import ctypes
import gc
from pathlib import Path

import pytest
from asking import ask, start
from fuzzing import bombs, requests
from served import colour, encoded

TOGETHER = 8


def resident():
    """Return the megabytes of memory that this process has, without those that its allocator keeps."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def send(request, count, seed):
    """Send so many requests, and return how often each status came. None is a failure, and all errors are lines."""
    statuses = {}

    async def everything():
        waiting = list(requests(count, seed))
        for place in range(0, count, TOGETHER):
            for response in await ask(request.app, *waiting[place : place + TOGETHER]):
                statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
                content = response.json()
                assert response.status_code == 200 or (list(content) == ["detail"] and "\n" not in content["detail"])

    asyncio.run(everything())
    assert set(statuses) <= {200, 400, 413, 415, 422}, statuses
    return statuses


@pytest.fixture(scope="module")
def small(model_file):
    """Return a function that asks a service that takes images of at most ten million pixels."""
    services = []
    yield start(services, model_file, max_pixels=10_000_000)
    services[0].close()


def test_some_hundred_bodies(small):
    statuses = send(small, 300, seed=1)
    assert min(statuses[status] for status in (200, 400, 413, 415, 422)) > 0


@pytest.mark.parametrize("place", range(len(bombs())))
def test_bombs(small, place):
    response = small("POST", "/predict", content=bombs()[place])
    assert response.status_code in (413, 422)


@pytest.mark.slow
def test_ten_thousand_bodies_leave_no_memory(small):
    send(small, 2000, seed=0)
    before = resident()
    for seed in range(1, 6):
        print(send(small, 2000, seed), f"{resident():.0f} MB", flush=True)
    assert resident() - before < 20
    assert small("POST", "/predict", content=encoded(colour(255, 0, 0))).json()["images"][0]["label"] == "red"
