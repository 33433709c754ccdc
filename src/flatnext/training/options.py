"""What a session of a run is told beside the config: where things are, and what it does besides training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flatnext.config.setting import require
from flatnext.progress import Display
from flatnext.training.inputs import KnownData

OnDivergence = Literal["stop", "rollback"]

Threads = int | Literal["auto"]
"""A number of threads; `auto`: the number that is measured to be the fastest."""

Keep = int | Literal["all"]
"""How many of the checkpoints from the ends of epochs are kept."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `flatnext.train` beside the config and the folder, where they are described.

    `known` are data that the run must have, or be said not to have, where it is to be compared with another.
    """

    data_dir: Path | str = ".data"
    device: str = "auto"
    download: bool = True
    resume: bool = False
    changes: Mapping[str, Any] | None = None
    overwrite: bool = False
    display: Display | None = None
    command: str | None = None
    track: Sequence[str] = ("tensorboard",)
    after_checkpoint: Callable[[], object] | None = None
    keep_checkpoints: Keep | None = None
    on_divergence: OnDivergence | None = None
    threads: Threads | None = None
    known: KnownData | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        keep = self.keep_checkpoints
        require(
            keep in (None, "all") or (isinstance(keep, int) and keep >= 0),
            f"keep_checkpoints is {keep!r}: give a number of epochs from 0, or all",
        )
        require(
            self.threads in (None, "auto") or (isinstance(self.threads, int) and self.threads >= 1),
            f"threads is {self.threads!r}: give a number from 1, or auto",
        )
        require(
            self.on_divergence in (None, *get_args(OnDivergence)),
            f"on_divergence is {self.on_divergence!r}: choose stop or rollback",
        )
