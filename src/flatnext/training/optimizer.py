"""The optimizer and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from flatnext import config
from flatnext.models.transfer import HEAD


def make_optimizer(
    model: nn.Module, settings: config.Optimizer, backbone_lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that are trained.

    Tensors of one dimension are not decayed unless `decay_all` is set: batch norm's weights and biases and the linear
    layer's bias. All but the last layer learn at `backbone_lr_factor` times the rate: their groups hold it as
    `lr_factor`, and come after those that learn at the full rate.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if backbone_lr_factor == 1:
        groups = _decay_groups(list(trained.values()), settings)
    else:
        head = [p for name, p in trained.items() if name.startswith(f"{HEAD}.")]
        backbone = [p for name, p in trained.items() if not name.startswith(f"{HEAD}.")]
        slower = [{**group, "lr_factor": backbone_lr_factor} for group in _decay_groups(backbone, settings)]
        groups = [*_decay_groups(head, settings), *slower]
    if settings.optimizer == "adamw":
        assert settings.beta2 is not None  # `config.Optimizer` fills it in
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, settings.beta2))
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov)


def _decay_groups(parameters: list[nn.Parameter], settings: config.Optimizer) -> list[dict[str, Any]]:
    """Return the groups of the parameters that are decayed and of those that are not, but for empty ones."""
    decayed = [p for p in parameters if settings.decay_all or p.ndim > 1]
    others = [p for p in parameters if not settings.decay_all and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group of parameters its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


def fuse(optimizer: torch.optim.Optimizer) -> None:
    """Have SGD take its steps in one kernel where the weights are on a GPU: the same to rounding, in one launch.

    AdamW takes them as torch chooses. On a CPU torch chooses as ever, so that runs there end in the same bits. To be
    called after `load_state_dict`, which brings the choice of the machine that saved.
    """
    if not isinstance(optimizer, torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        group["fused"] = all(p.is_cuda and p.is_floating_point() for p in group["params"]) or None


def learning_rate(peak: float, schedule: config.Schedule, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the learning rate of a step, counted from 0 over the whole run.

    A linear warm-up reaches `peak` with its last step. The cosine then falls to zero where `t_max` epochs (by default
    all of them) are over, the warm-up included; past `t_max` it rises again, as torch's does. The linear one falls
    to zero where all epochs are over: with a warm-up it is a triangle, also called one-cycle. A schedule that begins
    after some epochs, in a run that was made longer, is counted from there.
    """
    step, epochs = step - schedule.schedule_begins * steps_per_epoch, epochs - schedule.schedule_begins
    assert step >= 0  # the rates before were those of another schedule
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule.per_epoch:
        step = max(step // steps_per_epoch * steps_per_epoch, warmup)  # which may end within an epoch
    if schedule.schedule == "cosine":
        half_period = (schedule.t_max or epochs) * steps_per_epoch - warmup
        return peak * (1 + math.cos(math.pi * (step - warmup) / max(half_period, 1))) / 2
    if schedule.schedule == "linear":
        return peak * (1 - (step - warmup) / max(epochs * steps_per_epoch - warmup, 1))
    if schedule.schedule == "steps":
        assert schedule.milestones is not None  # Schedule checked it
        assert schedule.gamma is not None
        return peak * schedule.gamma ** sum(step >= m * steps_per_epoch for m in schedule.milestones)
    return peak
