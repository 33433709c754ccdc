"""The sums of an epoch under way."""

from __future__ import annotations

from typing import Any

import torch

from flatnext.training.step import StepStats


class NonFiniteLossError(ArithmeticError):
    """The loss of a step was not a finite number."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Tally:
    """Adds up the statistics of steps on the device; only `read` waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), device=device, dtype=torch.int64)
        self.first_bad_step = torch.full((), -1, device=device, dtype=torch.int64)
        self.count = 0
        self.seconds = 0.0

    def add(self, stats: StepStats, step: int) -> None:
        """Add a step's sums, and remember the first step whose loss was not finite."""
        bad = ~torch.isfinite(stats.loss) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)
        self.loss = self.loss + stats.loss
        self.correct = self.correct + stats.correct
        self.count += stats.count

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy so far. Raises `NonFiniteLossError` if a step's loss was not finite."""
        bad = int(self.first_bad_step)
        if bad >= 0:
            raise NonFiniteLossError(bad)
        return float(self.loss) / max(self.count, 1), float(self.correct) / max(self.count, 1)

    def rate(self) -> float:
        """Return images a second."""
        return self.count / max(self.seconds, 1e-9)

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"loss": self.loss.cpu(), "correct": self.correct.cpu(), "count": self.count, "seconds": self.seconds}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from the values of a checkpoint."""
        self.loss = state["loss"].to(self.loss.device)
        self.correct = state["correct"].to(self.correct.device)
        self.count, self.seconds = state["count"], state["seconds"]
