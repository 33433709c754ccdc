"""A time of day that jumps by months, within a run and between its sessions, changes no bit and no duration."""

from __future__ import annotations

import json
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest
from faults import CLOCK
from fork_server import ForkServer
from painted import RUN, paint_data
from same_run import assert_same_run

ALWAYS = "import flatnext.training.trainer as t; t.CHECKPOINT_SECONDS = 0.0\n"


def test_a_clock_that_jumps_changes_no_bit_and_no_duration(server: ForkServer, tmp_path: Path) -> None:
    if not server.has_faults:
        pytest.skip("there is no C compiler")
    words = [*RUN, "--data-dir", paint_data(tmp_path / "data"), "--output"]
    status, output = server.run(*words, tmp_path / "whole", log=tmp_path / "log")
    assert status == 0, output
    run, began = tmp_path / "run", time.monotonic()
    child = server.start(*words, run, log=tmp_path / "log", code=CLOCK + ALWAYS)
    while not (run / "last.safetensors").exists():
        assert child.status is None, child.output()
        server.look(0.005)
    child.send(signal.SIGTERM)
    assert child.wait() in (0, 130), child.output()
    status, output = server.run("train", "--resume", run, log=tmp_path / "log", code=CLOCK)
    assert status == 0, output
    took = time.monotonic() - began
    assert_same_run(run, tmp_path / "whole")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    durations = [value for line in lines for name, value in line.items() if "seconds" in name]
    durations.append(json.loads((run / "result.json").read_text())["train_seconds"])
    assert all(0 <= seconds <= took for seconds in durations)
    assert " s left" in output
    assert "days" not in output
    sessions = json.loads((run / "environment.json").read_text())["sessions"]
    jumps = [abs(time.time() - datetime.fromisoformat(session["started"]).timestamp()) for session in sessions]
    assert max(jumps) > 10**5  # the clock was wrong indeed
