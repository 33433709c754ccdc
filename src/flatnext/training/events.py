"""TensorBoard's event files."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class EventLog:
    """Writes an epoch's metrics as scalars, by step; what a resumed run measures anew replaces what it had written."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import, so only where a run writes events

        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

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
