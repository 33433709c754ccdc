"""Compile the kernels for the CPU that they run on, once, and load them; which tensors they take."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from ctypes import c_float, c_int, c_long, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from flatnext.cpu import processor_facts
from flatnext.errors import warn_of_fallback
from flatnext.ops import switch

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-w")
COMPILER_TIMEOUT = 120.0  # seconds
LANES = 16  # channels in the widest vector

POINTER, LONG, INT, FLOAT = c_void_p, c_long, c_int, c_float
SIGNATURES: dict[str, list[type]] = {
    "batch_norm_forward": [INT, *[POINTER] * 3, *[LONG] * 2, *[POINTER] * 4, FLOAT, FLOAT, *[POINTER] * 2, INT],
    "batch_norm_backward": [INT, *[POINTER] * 5, *[LONG] * 2, *[POINTER] * 6, INT],
    "grouped_lanes": [INT],
    "has_pointwise": [],
    "grouped_convolution": [INT, *[POINTER] * 4, *[LONG] * 8, INT, INT],
    "grouped_weight_gradient": [INT, *[POINTER] * 3, *[LONG] * 8],
    "pointwise_pack": [*[POINTER] * 2, *[LONG] * 2, INT],
    "pointwise_convolution": [*[POINTER] * 4, *[LONG] * 3, *[INT] * 2],
    "pointwise_weight_gradient": [*[POINTER] * 3, *[LONG] * 3],
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where there are none: not Linux on a 64-bit x86, or no compiler (a warning).

    The first call on a machine compiles them, in some ten seconds; the result is kept in `flatnext` under
    `XDG_CACHE_HOME` (by default `~/.cache`). Torch must have been imported before: the kernels run on its threads.
    `FLATNEXT_KERNELS=0` in the environment does without them; `CXX` names the compiler.
    """
    if os.environ.get("FLATNEXT_KERNELS") == "0" or platform.system() != "Linux" or platform.machine() != "x86_64":
        return None
    try:
        path = _compiled()
        try:
            return _load(path)
        except OSError:
            if path.read_bytes()[:4] == b"\x7fELF":
                raise
            path.unlink(missing_ok=True)  # left empty by a power cut, say; another process may have seen it as well
            return _load(_compiled())
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        # No compiler, one that fails, a folder that cannot be written, or (`Path.home`) a user without a home.
        warn_of_fallback(
            f"the kernels for the CPU could not be compiled ({_reason(error)}): training on the CPU is slower without; "
            "install g++ or name a compiler in CXX, or set FLATNEXT_KERNELS=0 to hide this"
        )
        return None


def _reason(error: Exception) -> str:
    """Return why there is no library, in a line: of a compiler that fails its own first words."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").split("\n")
        return f"{error.cmd[0]} failed: {lines[0][:200]}"
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return f"there is no {error}"
    return str(error).partition("\n")[0]


def kernels_for(x: Tensor) -> ctypes.CDLL | None:
    """Return the kernels if they can work on `x`: channels-last images of bf16 or float32 on the CPU."""
    if (
        not switch.usable(x)
        or x.device.type != "cpu"
        or x.dtype not in (torch.bfloat16, torch.float32)
        or x.ndim != 4
        or x.shape[1] % LANES
        or not x.numel()
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return None
    return library()


def computed_in() -> torch.dtype:
    """Return the type in which convolutions compute here."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _load(path: Path) -> ctypes.CDLL:
    """Open the library and declare what its functions take."""
    kernels = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        if hasattr(kernels, name):
            getattr(kernels, name).argtypes = arguments
    return kernels


def _compiled() -> Path:
    """Return the file of the library; compile it if there is none."""
    compiler = os.environ.get("CXX", "g++")
    command = shutil.which(compiler)
    if command is None:
        raise FileNotFoundError(compiler)
    version = subprocess.run([command, "--version"], capture_output=True, check=True, timeout=COMPILER_TIMEOUT).stdout
    sources = [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    key = hashlib.sha256(b"\0".join([*sources, " ".join(FLAGS).encode(), version, _processor()]))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flatnext"
    path = cache / f"kernels-{key.hexdigest()[:16]}.so"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _writable_by_us_alone(cache):
        if cache.stat().st_uid != os.getuid():
            raise RuntimeError(f"{cache} belongs to another user: set XDG_CACHE_HOME to a folder of your own")
        cache.chmod(0o700)
    if not path.exists() or not _writable_by_us_alone(path):  # what others could have put there is not loaded
        # Several processes may compile at once: each writes its own file and renames it to the same name.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            output = Path(folder) / "kernels.so"
            subprocess.run(
                [command, *FLAGS, str(SOURCE), "-o", output], capture_output=True, check=True, timeout=COMPILER_TIMEOUT
            )
            output.chmod(0o700)
            output.replace(path)
    return path


def _writable_by_us_alone(path: Path) -> bool:
    """Return whether no other user can have put code there."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _processor() -> bytes:
    """Return the processor that the code is compiled for: machines of several kinds may share a home folder."""
    lines = processor_facts().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name"))})).encode()
