"""`flatnext evaluate`."""

from __future__ import annotations

import json

import pytest
import torch

from flatnext.models import resnext29


def test_a_checkpoint_of_the_baseline_papers_code(run, tmp_path):
    torch.manual_seed(0)
    torch.save({"model": resnext29().state_dict(), "acc": 10.0, "epoch": 3}, tmp_path / "ckpt.pth")
    flags = ["--dataset", "digits", "--validation", "0"]
    status, out, err = run("evaluate", "ckpt.pth", *flags, "--json")
    assert status == 0, err
    assert json.loads(out)["count"] == 360


@pytest.mark.parametrize("arguments", [["runs/x", "--parts"], ["--checkpoint", "best", "runs/x", "--parts"]])
def test_parts_are_answered_with_the_new_command(run, arguments):
    status, out, err = run("evaluate", *arguments, "calibration", "errors", "--images", 50)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "flatnext evidence runs/x --measurements calibration errors" in err
