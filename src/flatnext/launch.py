"""How a process of this package is started, and what torchrun says to one: its number, how many there are, and where.

Schedulers and notebook images leave some of the same variables in the environment. Processes are several only where
all of them are there; otherwise this one is alone, and `ignored` says so.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flatnext.errors import InputError

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# As `python -m` does, but without the working folder, in which a file may have the name of any library's module. The
# package is found where it lies, also where it is not installed.
_RUN = "import runpy, sys; sys.path.append({!r}); runpy.run_module({!r}, run_name='__main__', alter_sys=True)"


def python(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this package with arguments."""
    return [sys.executable, "-P", "-c", _RUN.format(str(Path(__file__).parents[1]), module), *arguments]


def rank_and_count() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many processes there are."""
    if not _complete():
        return 0, 1
    rank, count = _number("RANK"), _number("WORLD_SIZE")
    return (rank, count) if 0 <= rank < count else (0, 1)


def is_first() -> bool:
    """Return whether this process is the only one, or the first of several, which alone speaks."""
    try:
        return rank_and_count()[0] == 0
    except InputError:  # which is to be shown
        return True


JOINING = ("train", "rerun")
"""The commands that several processes carry out together."""


def speaks(command: str) -> bool:
    """Return whether this process says what is wrong with a command: of several that join, the first alone does.

    What is no command may be meant to be one of these.
    """
    return is_first() or command not in ("", *JOINING)


def ignored() -> str | None:
    """Return a line on variables of torchrun's that this process ignores; None where there are none."""
    given = [f"{name}={os.environ[name]}" for name in ("RANK", "WORLD_SIZE") if os.environ.get(name)]
    if not given or rank_and_count()[1] > 1 or (_complete() and given == ["RANK=0", "WORLD_SIZE=1"]):
        return None
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    reason = f"{', '.join(missing)} not set" if missing else "they do not fit together"
    return f"{' '.join(given)} in the environment ignored ({reason}): one process trains alone; unset, or use torchrun"


def attempt() -> int:
    """Return how often torchrun has started the processes again after one of them died."""
    return _number("TORCHELASTIC_RESTART_COUNT", 0) if _complete() else 0


def launch() -> str:
    """Return the name of this start of torchrun, which its restarts share; empty without torchrun.

    Without `--rdzv-id` torchrun may call all of its starts "none".
    """
    return os.environ.get("TORCHELASTIC_RUN_ID", "") if _complete() else ""


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its GPU."""
    return _number("LOCAL_RANK", 0)


def address() -> str:
    """Return where the processes meet."""
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _complete() -> bool:
    return all(os.environ.get(name) for name in VARIABLES)


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name) or default
    try:
        return int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"{name} is {text!r} in the environment: unset it, or start with torchrun") from None
