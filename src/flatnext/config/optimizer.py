"""The settings of the optimizer and of its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flatnext.config.setting import Settings, require, setting

DEFAULTS: dict[str, dict[str, float | bool | None]] = {
    "sgd": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "beta2": None},
    "adamw": {"learning_rate": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01, "beta2": 0.999},
}
"""The settings of each optimizer where they are not given: of AdamW those of `torch.optim.AdamW`."""


@dataclass(frozen=True, kw_only=True)
class Optimizer(Settings):
    """Stochastic gradient descent, as `torch.optim.SGD` takes it, or AdamW.

    A setting that is None is that of the optimizer in `DEFAULTS`.
    """

    optimizer: Literal["sgd", "adamw"] = setting("sgd", "optimizer; another than the recipe's has settings of its own")
    learning_rate: float = setting(None, "learning rate at its peak", flag="lr", above=0)
    momentum: float = setting(None, "momentum; for adamw its first beta", at_least=0, below=1)
    beta2: float | None = setting(
        None,
        "decay of the mean of squared gradients, for adamw",
        at_least=0,
        below=1,
        belongs_to=("optimizer", "adamw"),
    )
    nesterov: bool = setting(None, "Nesterov momentum, for sgd")
    weight_decay: float = setting(
        None, "weight decay: for sgd in the gradient (L2), as in torch.optim.SGD; for adamw apart from it", at_least=0
    )
    decay_all: bool = setting(False, "apply weight decay to batch norm's parameters and to biases as well")
    clip_norm: float | None = setting(None, "clip the gradient of every pass to this norm (default: no)", above=0)

    def __post_init__(self) -> None:
        """Fill in what is not given, and check the settings."""
        for name, default in DEFAULTS.get(self.optimizer, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        super().__post_init__()
        require(not self.nesterov or self.optimizer == "sgd", "nesterov belongs to optimizer=sgd: set no-nesterov")
        require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0: set momentum, or no-nesterov")


OF_OPTIMIZER = tuple(DEFAULTS["sgd"])
"""The settings that another optimizer has other values of."""


@dataclass(frozen=True, kw_only=True)
class Schedule(Settings):
    """The learning rate over the run, after a linear warm-up.

    Of a run that was made longer `schedule_begins` is the number of epochs before this schedule, which had another;
    epochs of the schedule are counted from there.
    """

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
    schedule_begins: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        epochs = self.milestones or ()
        require(list(epochs) == sorted(set(epochs)), f"milestones is {epochs}: give rising epochs")
