"""The lock of a run folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from flatnext.errors import FallbackWarning, InputError
from flatnext.runs import claim as claim_module
from flatnext.runs import lock as lock_module
from flatnext.runs.claim import began, read_holder
from flatnext.runs.lock import HeldError, lock, lock_owner

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


BROKEN = [None, *LOCKLESS]
"""What the system's lock does: nothing at all, or an error."""


@pytest.fixture(params=BROKEN, ids=lambda code: errno.errorcode.get(code, "nothing"))
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system's lock be at work nowhere, and a claim's time be watched for a moment only."""

    def flock(*_: object) -> None:
        if request.param is not None:
            raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(lock_module.fcntl, "flock", flock)
    quick(monkeypatch)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_SECONDS", 0.02), ("POLL_SECONDS", 0.02), ("PATIENCE_SECONDS", 0.3)):
        monkeypatch.setattr(claim_module, name, seconds)


def holder(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / ".held").read_text())
    return content


@pytest.mark.usefixtures("broken")
def test_where_the_systems_locks_do_nothing_a_second_process_is_refused_all_the_same(tmp_path: Path) -> None:
    with lock(tmp_path, "mine"):
        assert lock_owner(tmp_path) == "mine"
        with pytest.raises(HeldError, match=f"on {platform.node()}, process {os.getpid()}, since"), lock(tmp_path):
            pass
    assert not (tmp_path / ".held").exists()
    with lock(tmp_path):
        pass


@pytest.mark.usefixtures("broken")
def test_a_process_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = f"{TRY}; sys.stdout.flush(); import os; os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (killed.returncode, killed.stdout) == (-9, "held\n")
    assert (tmp_path / ".held").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)  # it was on this machine, which knows that it has ended
        with lock(tmp_path):
            assert holder(tmp_path)["process"] == os.getpid()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say it")
def test_a_process_that_was_killed_and_not_waited_for_holds_nothing(tmp_path: Path) -> None:
    with lock(tmp_path):
        ours = holder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        theirs = {**ours, "process": process.pid, "began": began(process.pid)}
        (tmp_path / ".held").write_text(json.dumps(theirs))
        with pytest.raises(HeldError), lock(tmp_path):
            pass
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with lock(tmp_path):
            assert holder(tmp_path)["process"] == os.getpid()


def test_where_the_system_does_not_say_when_a_process_began_the_claim_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "began", lambda _: "")
    quick(monkeypatch)
    with lock(tmp_path):
        there = holder(tmp_path)
    (tmp_path / ".held").write_text(json.dumps({**there, "process": 1}))  # before the machine was started again
    with pytest.warns(FallbackWarning, match="to see whether it lives"), lock(tmp_path):
        assert holder(tmp_path)["process"] == os.getpid()


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("what", ["a container", "the same number since", "no content"])
def test_a_claim_from_elsewhere_counts_as_long_as_its_time_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with lock(tmp_path):
        there = holder(tmp_path)
    elsewhere = tmp_path / ".held"
    if what == "the same number since":  # a process of this number, but a later one
        elsewhere.write_text(json.dumps({**there, "began": "1"}))
        with lock(tmp_path):
            pass
        return
    elsewhere.write_text("" if what == "no content" else json.dumps({**there, "place": "another", "host": "b"}))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(elsewhere)

    thread = threading.Thread(target=beat)
    thread.start()
    with monkeypatch.context() as patient:  # a busy machine may not let the thread run for a while
        patient.setattr(claim_module, "PATIENCE_SECONDS", 20.0)
        with pytest.warns(FallbackWarning, match="to see whether it lives"), pytest.raises(HeldError), lock(tmp_path):
            pass
    ended.set()
    thread.join()
    with pytest.warns(FallbackWarning, match="did not say it had ended: 0 seconds"), lock(tmp_path):  # it stands still
        assert holder(tmp_path)["token"] != there["token"]


def test_two_that_find_a_dead_claim_do_not_both_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with lock(tmp_path):
        there = holder(tmp_path)
    dead = claim_module.Holder(token="dead", process=1)
    (tmp_path / ".held").write_text(json.dumps(there))  # another was faster, and lives
    claim_module._remove(tmp_path / ".held", dead)
    assert holder(tmp_path) == there
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_who_stood_still_and_was_taken_over_notices_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with lock(tmp_path) as claim:
        claim.require()
        other = {**holder(tmp_path), "token": "other", "host": "b"}
        (tmp_path / ".held").write_text(json.dumps(other))
        with pytest.raises(InputError, match="another process has taken this over \\(on b, process"):
            claim.require()
    assert holder(tmp_path) == other  # it is not this one's to remove


def test_a_claim_that_somebody_deletes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    with lock(tmp_path) as claim:
        (tmp_path / ".held").unlink()
        until = time.monotonic() + 5
        while not (now := read_holder(tmp_path / ".held")) or not now.token:  # it is made anew, and then written
            assert time.monotonic() < until
            time.sleep(0.02)
        assert now.token == claim.holder.token


def test_a_lock_without_a_known_holder_is_held_all_the_same(tmp_path: Path) -> None:
    with lock(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(InputError, match="another process is running this: wait"), lock(tmp_path):
            pass


@pytest.mark.parametrize("what", ["no folder", "a folder in its place"])
def test_a_lock_that_cannot_be_written_is_bad_input(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    if what != "no folder":
        (folder / ".lock").mkdir(parents=True)
    said = f"^cannot write {folder}: .*; free the disk or choose another folder$"
    with pytest.raises(InputError, match=said), lock(folder):
        pass


def test_a_claim_that_a_full_disk_left_without_a_name_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(claim_module, "dumps", full)
    with lock(tmp_path) as claim:
        assert (tmp_path / ".held").read_bytes() == b""
        claim.require()
    assert not (tmp_path / ".held").exists()
