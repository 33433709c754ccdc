"""Comparing the run folders that two trainings left."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch


def weights(folder: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def measured(folder: Path) -> list[dict]:
    """Return the lines of metrics without the times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k and k != "images_per_second"} for line in lines]


def assert_same_run(left: Path, right: Path) -> None:
    for name in ("last", "best"):
        a, b = weights(left, name), weights(right, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert measured(left) == measured(right)
    results = [json.loads((folder / "result.json").read_text()) for folder in (left, right)]
    for key in ("last", "best", "mistakes"):
        assert results[0][key] == results[1][key]
