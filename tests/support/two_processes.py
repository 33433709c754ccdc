"""Two processes at the same time, which meet by torch.distributed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence


def environment(**changes: str) -> dict[str, str]:
    """Return an environment for a process of its own, without what this one may have of torchrun's."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "MASTER_")) and k != "RANK"}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **changes}


def run_together(
    commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]
) -> tuple[list[int], list[str]]:
    """Run the commands at the same time; return exit statuses and what they wrote to standard error."""
    running = [
        subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command, own in zip(commands, environments, strict=True)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [process.returncode for process in running], errors
