"""A disk that is full at the call of choice, and a clock that jumps: `faults.c`, which is preloaded, from Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")

ONCE, FROM_THEN_ON, IN_HALF = 0, 1, 2
"""Which calls fail: one; it and all after it; the same, and a write first puts half of its bytes on the disk."""


def compiled(folder: Path) -> Path | None:
    """Return the library; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def full_disk(folder: Path, call: int, kind: int) -> str:
    """Return what a child of the fork server runs so that the disk below a folder is full at a call (0: never).

    The last line that it prints is how many calls there were.
    """
    return f"""
import ctypes
import flatnext.cli
disk = ctypes.CDLL(None)
disk.full_disk_calls.restype = ctypes.c_long
disk.full_disk({str(folder)!r}.encode(), ctypes.c_long({call}), {kind})
real = flatnext.cli.main
def main(words):
    try:
        return real(words)
    finally:
        calls = disk.full_disk_calls()
        disk.full_disk(b"", 0, 0)
        print(f"\\n{{calls}}", flush=True)
flatnext.cli.main = main
"""


CLOCK = """
import ctypes, random
from flatnext.training.run_state import RunState
clock, draw, advance = ctypes.CDLL(None), random.Random(1), RunState.advance
def jump():
    clock.wrong_clock(ctypes.c_long(draw.randrange(-10**7, 10**7)))
def jumping(*arguments):
    jump()
    advance(*arguments)
    jump()
RunState.advance = jumping
jump()
"""
"""What a child of the fork server runs so that the time of day jumps by months, forth and back, around every step."""
