"""TensorBoard's event files."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from flatnext.runs.records import Epoch


class EventLog:
    """Writes an epoch's metrics as scalars, by step. A resumed run begins with those that it has, in a new file."""

    def __init__(self, folder: Path, epochs: Iterable[Epoch]) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a second to import, so only where a run writes events

        shutil.rmtree(folder, ignore_errors=True)
        self.writer = SummaryWriter(str(folder))
        for epoch in epochs:
            self.add(epoch)

    def add(self, epoch: Epoch) -> None:
        """Write the numbers of an epoch as `loss/train`, `accuracy/test` and so on."""
        for key, value in vars(epoch).items():
            if value is None or key in ("epoch", "step"):
                continue
            split, _, name = key.partition("_")
            tag = f"{name}/{split}" if name in ("loss", "accuracy") else f"run/{key}"
            self.writer.add_scalar(tag, value, epoch.step)
        self.writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()
