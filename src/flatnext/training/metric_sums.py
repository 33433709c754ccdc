"""The metrics of an epoch under way, as sums."""

from __future__ import annotations

from typing import Any

import torch

from flatnext.processes import Processes
from flatnext.training.step import StepStats


class NonFiniteLossError(ArithmeticError):
    """The loss of a step was not a finite number."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class MetricSums:
    """Sums the statistics of this process's steps on the device; only reading them waits for it."""

    def __init__(self, device: torch.device) -> None:
        # loss, correct images, images
        self.sums = torch.zeros(3, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
        self.first_bad_step = torch.full((), -1, device=device, dtype=torch.int64)
        self.trained = 0  # images that steps were taken with
        self.seconds = 0.0

    def add(self, stats: StepStats, step: int) -> None:
        """Add a step's sums, and remember the first step whose loss was not finite."""
        bad = ~torch.isfinite(stats.loss) & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(bad, step, self.first_bad_step)
        self.trained += stats.trained
        count = torch.full_like(stats.loss, stats.count)
        self.sums = self.sums + torch.stack([stats.loss, stats.correct.to(stats.loss.dtype), count])

    def check(self, processes: Processes) -> None:
        """Raise `NonFiniteLossError` in all processes if the loss of a step was not finite in any."""
        bad = processes.first_of(int(self.first_bad_step))
        if bad >= 0:
            raise NonFiniteLossError(bad)

    def local_means(self) -> tuple[float, float, float]:
        """Return mean loss, accuracy and images a second of this process alone."""
        return self._means(self.sums, self.trained)

    def means(self, processes: Processes) -> tuple[float, float, float]:
        """Return mean loss, accuracy and images a second over all processes."""
        return self._means(self._total_sums(processes), self._total_trained(processes))

    def state_dict(self, processes: Processes) -> dict[str, Any]:
        """Return the sums over all processes, for a checkpoint."""
        sums, trained = self._total_sums(processes).cpu(), self._total_trained(processes)
        return {"sums": sums, "trained": trained, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any], processes: Processes) -> None:
        """Go on from the sums of a checkpoint; the first process keeps them for all."""
        if processes.first:
            self.sums = state["sums"].to(self.sums.device)
            self.trained = state.get("trained", int(self.sums[2]))  # older checkpoints do not have it
        self.seconds = state["seconds"]

    def _total_sums(self, processes: Processes) -> torch.Tensor:
        sums = self.sums.clone()
        processes.sum([sums])
        return sums

    def _total_trained(self, processes: Processes) -> int:
        trained = torch.tensor([self.trained], device=self.sums.device, dtype=self.sums.dtype)
        processes.sum([trained])
        return int(trained)

    def _means(self, sums: torch.Tensor, trained: int) -> tuple[float, float, float]:
        loss, correct, count = sums.tolist()
        return loss / max(count, 1), correct / max(count, 1), trained / max(self.seconds, 1e-9)
