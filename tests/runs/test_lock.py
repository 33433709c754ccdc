"""The lock of a run folder."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from flatnext.errors import FallbackWarning, InputError
from flatnext.runs import lock as lock_module
from flatnext.runs.lock import lock, lock_owner

LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
TRY = "import sys, pathlib; from flatnext.runs.lock import lock\nwith lock(pathlib.Path(sys.argv[1])): print('held')"


def test_one_process_holds_it_at_a_time(tmp_path: Path) -> None:
    def other() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TRY, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with lock(tmp_path):
        message = other().stderr.splitlines()[-1]
        assert f"another process is running this (on {platform.node()}, process {os.getpid()}, since 20" in message
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


def test_a_lock_of_0_1_0_has_an_owner_and_nothing_else(tmp_path: Path) -> None:
    for owner in ("", "2", "a launch"):
        (tmp_path / ".lock").write_text(owner)
        assert lock_owner(tmp_path) == (owner or None)


@pytest.mark.parametrize("code", LOCKLESS, ids=errno.errorcode.get)
def test_where_there_are_no_locks_the_run_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)
    with pytest.warns(FallbackWarning, match=f"cannot be locked .*{os.strerror(code)}"), lock(tmp_path, "mine"):
        assert lock_owner(tmp_path) == "mine"


def test_a_lock_without_a_known_holder_is_held_all_the_same(tmp_path: Path) -> None:
    with lock(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(InputError, match="another process is running this: wait"), lock(tmp_path):
            pass
