"""TensorBoard's event files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class EventLog:
    """Writes an epoch's metrics as scalars, by step. A resumed run begins with those that it has, in a new file."""

    def __init__(self, folder: Path, lines: Iterable[dict[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import, so only where a run writes events

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))
        for line in lines:
            self.add(line)

    def add(self, line: dict[str, Any]) -> None:
        """Write the numbers of a line of metrics as `loss/train`, `accuracy/test` and so on."""
        for key, value in line.items():
            if value is None or key in ("epoch", "step"):
                continue
            split, _, name = key.partition("_")
            tag = f"{name}/{split}" if name in ("loss", "accuracy") else f"run/{key}"
            self.writer.add_scalar(tag, value, line["step"])
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()
