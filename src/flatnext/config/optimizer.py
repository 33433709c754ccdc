"""The settings of the optimizer and of its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flatnext.config.setting import Settings, require, setting


@dataclass(frozen=True, kw_only=True)
class Optimizer(Settings):
    """Stochastic gradient descent, as `torch.optim.SGD` takes it."""

    learning_rate: float = setting(0.1, "learning rate at its peak", flag="lr", above=0)
    momentum: float = setting(0.9, "momentum", at_least=0, below=1)
    nesterov: bool = setting(True, "Nesterov momentum")
    weight_decay: float = setting(5e-4, "weight decay (L2, as in torch.optim.SGD)", at_least=0)
    decay_all: bool = setting(False, "apply weight decay to batch norm's parameters and to biases as well")
    clip_norm: float | None = setting(None, "clip the gradient of every pass to this norm (default: no)", above=0)

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0: set momentum, or no-nesterov")


@dataclass(frozen=True, kw_only=True)
class Schedule(Settings):
    """The learning rate over the run, after a linear warm-up."""

    schedule: Literal["cosine", "linear", "steps", "constant"] = setting(
        "cosine", "learning-rate schedule; cosine and linear end at zero"
    )
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up from zero", at_least=0)
    t_max: int | None = setting(
        None,
        "cosine: epochs until the rate is zero, as in CosineAnnealingLR (default: all epochs)",
        at_least=1,
        belongs_to=("schedule", "cosine"),
    )
    milestones: tuple[int, ...] | None = setting(
        None,
        "steps: epochs after which the rate is multiplied by gamma",
        at_least=0,
        belongs_to=("schedule", "steps"),
        needed=True,
    )
    gamma: float | None = setting(
        None, "steps: factor applied at each milestone", above=0, belongs_to=("schedule", "steps"), needed=True
    )
    per_epoch: bool = setting(False, "change the rate once an epoch instead of every step (after the warm-up)")

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        epochs = self.milestones or ()
        require(list(epochs) == sorted(set(epochs)), f"milestones is {epochs}: give rising epochs")
