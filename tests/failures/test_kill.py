"""Killed at any moment and resumed, as often as it takes, a run ends in the bits of one that nothing happened to.

A dozen kills, and fifty in the slow tests.
"""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import pytest
from fork_server import ForkServer
from same_run import assert_same_run

RUN = [
    *("train", "--recipe", "quick-amp", "--epochs", 4, "--batch-size", 25, "--train-images", 100, "--validation", 40),
    *("--blocks", "1,1", "--cardinality", 2, "--stem", 8, "--lr", 0.02, "--ema", 0.9, "--precision", "fp32"),
    *("--keep-checkpoints", 2, "--track", "none", "--no-test-curve"),
]
"""16 steps."""

ALWAYS = """
import os, time
import flatnext.training.trainer
flatnext.training.trainer.CHECKPOINT_SECONDS = 0.0
fsync = os.fsync
os.fsync = lambda file: (time.sleep(0.004), fsync(file))
"""
"""A checkpoint after every step, and a slow disk, so that most of the time is spent in writing."""


@pytest.fixture(scope="module")
def whole(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = server.run(*RUN, "--output", "run", log=folder / "log")
    assert status == 0, output
    return folder / "run"


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has computed is read from /proc")
@pytest.mark.parametrize(
    ("seed", "wanted"), [(0, 12), *(pytest.param(seed, 50, marks=pytest.mark.slow) for seed in range(1, 8))]
)
def test_killed_at_random_moments_and_resumed_ends_in_the_same_bits(
    server: ForkServer, whole: Path, tmp_path: Path, seed: int, wanted: int
) -> None:
    moments, kills, runs, in_a_write = random.Random(seed), 0, 0, 0
    while kills < wanted:
        runs += 1
        folder, begun = tmp_path / f"run{runs}", False
        while True:
            words = ["train", "--resume", folder, "--track", "none"] if begun else [*RUN, "--output", folder]
            finished = (folder / "result.json").exists()  # killed after it: its claim and its last state may stay
            child = server.start(*words, log=tmp_path / "log", code=ALWAYS)
            if kills < wanted:
                child.work(moments.uniform(0.05, 0.8))
                time.sleep(moments.uniform(0, 0.02))
                child.send(signal.SIGKILL)
            if child.wait() != -signal.SIGKILL:
                break
            kills += 1
            begun = (folder / "config.json").exists()
            in_a_write += any(path.suffix == ".tmp" for path in folder.glob(".*"))
        assert child.status == 0, child.output()
        assert_same_run(folder, whole)
        names = {path.relative_to(folder) for path in folder.rglob("*.safetensors")}
        assert names == {path.relative_to(whole) for path in whole.rglob("*.safetensors")}
        left = [path.name for path in folder.iterdir() if path.suffix in (".tmp", ".pt") or path.name == ".held"]
        assert not left or (finished and not [name for name in left if name.endswith(".tmp")] and len(left) <= 2), left
    print(f"{kills} kills of {runs} runs, {in_a_write} in the middle of a write")
