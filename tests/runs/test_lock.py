"""The lock of a run folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flatnext.errors import InputError
from flatnext.runs.lock import lock, lock_owner

TRY = "import sys, pathlib; from flatnext.runs.lock import lock\nwith lock(pathlib.Path(sys.argv[1])): print('held')"


def test_one_process_holds_it_at_a_time(tmp_path: Path) -> None:
    def other() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TRY, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with lock(tmp_path):
        assert "another process is running this" in other().stderr
        with pytest.raises(InputError, match="wait for it, or stop it"), lock(tmp_path):
            pass
    assert other().stdout == "held\n"


def test_the_last_owner_is_remembered(tmp_path: Path) -> None:
    assert lock_owner(tmp_path) is None
    for owner in ("first", "2"):
        with lock(tmp_path, owner):
            assert lock_owner(tmp_path) == owner
    with lock(tmp_path):  # without a name of its own
        pass
    assert lock_owner(tmp_path) == "2"
