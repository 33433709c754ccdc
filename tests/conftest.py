"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

import pytest
from places import REPOSITORY

from flatnext import errors


@pytest.fixture(scope="session", autouse=True)
def as_begun_by_hand() -> None:
    """Let Ctrl-C be what it is in a program begun by hand: in a shell's background job it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test be told what is said once in a process."""
    monkeypatch.setattr(errors, "_said", set())


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """Return the folder that holds the published CIFAR-10 files, or skip."""
    folder = Path(os.environ.get("FLATNEXT_DATA", REPOSITORY / ".data"))
    if not (folder / "cifar-10-batches-py").is_dir():
        pytest.skip("the published CIFAR-10 files are not here: set FLATNEXT_DATA to their folder")
    return folder
