"""Compiling the kernels for the CPU that they run on, once, and loading them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int, c_long, c_void_p
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-w")
SECONDS = 120.0  # after which a compiler is given up

POINTER, LONG, INT, FLOAT = c_void_p, c_long, c_int, c_float
SIGNATURES: dict[str, list[type]] = {
    "batch_norm_forward": [INT, *[POINTER] * 3, *[LONG] * 2, *[POINTER] * 4, FLOAT, FLOAT, *[POINTER] * 2, INT],
    "batch_norm_backward": [INT, *[POINTER] * 5, *[LONG] * 2, *[POINTER] * 6, INT],
    "has_grouped_convolution": [],
    "grouped_convolution": [*[POINTER] * 3, *[LONG] * 8, INT],
    "grouped_weight_gradient": [*[POINTER] * 3, *[LONG] * 8],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where there are none: no compiler, or not Linux on a 64-bit x86.

    The first call on a machine compiles them, in some ten seconds; the result is kept in `flatnext` under
    `XDG_CACHE_HOME` (by default `~/.cache`). Torch must have been imported before: the kernels run on its threads.
    `FLATNEXT_KERNELS=0` in the environment does without them; `CXX` names the compiler.
    """
    if os.environ.get("FLATNEXT_KERNELS") == "0" or platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        return _load(_compiled())
    except (OSError, subprocess.SubprocessError, RuntimeError):
        # No compiler, one that fails, a folder that cannot be written, or (`Path.home`) a user without a home.
        return None


def _load(path: Path) -> ctypes.CDLL:
    """Open the library and declare what its functions take."""
    kernels = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        if hasattr(kernels, name):
            getattr(kernels, name).argtypes = arguments
    return kernels


def _compiled() -> Path:
    """Return the file of the library, which is compiled if it is not there."""
    compiler = os.environ.get("CXX", "g++")
    found = shutil.which(compiler)
    if found is None:
        raise FileNotFoundError(compiler)
    version = subprocess.run([found, "--version"], capture_output=True, check=True, timeout=SECONDS).stdout
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, _processor()]))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flatnext"
    path = cache / f"kernels-{key.hexdigest()[:16]}.so"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Several processes may compile at once: each writes a file of its own, and the last one to be renamed stays.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            output = Path(folder) / "kernels.so"
            subprocess.run([found, *FLAGS, str(SOURCE), "-o", output], capture_output=True, check=True, timeout=SECONDS)
            output.replace(path)
    return path


def _processor() -> bytes:
    """Return what the code is compiled for: a home folder may be shared by machines of several kinds."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name"))})).encode()
