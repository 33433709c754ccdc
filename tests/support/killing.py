"""Ending a process in the middle of a write."""

from __future__ import annotations

from flatnext import files
from flatnext.runs import folder as folder_module
from flatnext.training import checkpoint as checkpoint_module


class Killed(BaseException):
    """Stands for the end of the process."""


def kill_at_write(monkeypatch, number: int) -> None:
    """Let the process end in the middle of the write of this number, counted from 0."""
    count = -1

    def write(path, content):
        nonlocal count
        count += 1
        if count == number:
            path.with_name(f".{path.name}.tmp").write_bytes(b"half")
            raise Killed
        real(path, content)

    real = files.write_atomically
    for module in (files, checkpoint_module, folder_module):
        monkeypatch.setattr(module, "write_atomically", write)
