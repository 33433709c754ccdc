"""A method at work in a run: which rule it is at a step, and which tensors it perturbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from flatnext import config
from flatnext.errors import InputError
from flatnext.methods.adversarial import adversarial
from flatnext.methods.amp import amp
from flatnext.methods.momentum_amp import momentum_amp
from flatnext.methods.rmp import rmp
from flatnext.methods.rule import Rule
from flatnext.methods.sam import asam, sam
from flatnext.methods.sgd import sgd
from flatnext.seeds import mix

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """A method in the table: its rule, what the rule needs beside its settings, and whether it perturbs the images."""

    rule: Callable[..., Any]
    needs: tuple[str, ...] = ()
    perturbs_images: bool = False


METHODS: dict[type[config.Method], Row] = {
    config.Sgd: Row(sgd),
    config.Amp: Row(amp),
    config.method.MomentumAmp: Row(momentum_amp, needs=("optimizer",)),
    config.method.Rmp: Row(rmp, needs=("generator",)),
    config.method.Sam: Row(sam),
    config.method.Asam: Row(asam),
    config.method.Adversarial: Row(adversarial, needs=("unit", "low", "high"), perturbs_images=True),
}


# Settings that say when, with what and of what a rule is made; the others are the rule's arguments.
FOR_THE_STEP = ("perturb_every", "radius_schedule", "m_sharpness", "only", "ascent_share")


@dataclass(frozen=True, kw_only=True)
class BoundMethod:
    """A method's settings with what they refer to. Called with a step's number it is a function of that alone.

    `mean` and `std` are those by which images were normalised; `total_steps` is what a radius schedule ends at.

    A step may also be recorded once and replayed: then `radius` is a 0-dimensional tensor on the device that the rule
    reads its radius from, `prepare` is called before each replay, and `form` says which of the steps are alike.
    """

    settings: config.Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    total_steps: int
    seed: int = 0
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    radius: Tensor | None = None
    # Made once, as to make a tensor from numbers is to wait for the GPU; what `dataclasses.replace` makes shares them.
    made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, closure: Callable[[], T], images: Tensor, step: int) -> T:
        """Compute the gradient of a batch by the rule of this step; `closure` runs the model on `images`."""
        if self.radius is None:
            self.prepare(step, images.device)
        perturbed = [images] if METHODS[type(self.settings)].perturbs_images else self.parameters
        return self.rule(step, images)(closure, perturbed, self.model.buffers())

    def form(self, step: int) -> str:
        """Return "plain" or "perturbed": steps of one form launch the same work, if batches have the same shape."""
        lengths = (self.radius_at(step), *(getattr(self.settings, name, 1) for name in ("inner_lr", "inner_iter")))
        return "plain" if self._plain(step) or 0 in lengths else "perturbed"

    def prepare(self, step: int, device: torch.device) -> None:
        """Do what the step needs from the host: set the radius, if it is on the device, and seed the noise."""
        if self._plain(step):
            return
        if self.radius is not None:
            self.radius.fill_(self.radius_at(step))
        if (noise := self.generator(device)) is not None:
            noise.manual_seed(mix(self.seed, step))

    def generator(self, device: torch.device) -> torch.Generator | None:
        """Return the generator that the method draws from, if it draws; `prepare` seeds it anew for every step."""
        if "generator" not in METHODS[type(self.settings)].needs:
            return None
        return self._once(("generator", device), lambda: torch.Generator(device))

    def radius_at(self, step: int) -> float:
        """Return the radius of a step that perturbs; of one that is `sgd`, 0."""
        settings = self.settings
        if isinstance(settings, config.Sgd):
            return 0.0
        largest = settings.rho if isinstance(settings, config.method.Sam) else settings.epsilon
        return largest * radius_factor(settings.radius_schedule, step, self.total_steps)

    def share(self, step: int, number: int) -> float:
        """Return the share of the batch that pass `number` of a step, from 0, is to have: the last has all of it."""
        if self.form(step) == "plain" or number >= getattr(self.settings, "inner_iter", 1):
            return 1.0
        return getattr(self.settings, "ascent_share", 1.0)

    @property
    def m_sharpness(self) -> bool:
        """Whether each process perturbs by its own gradient."""
        return isinstance(self.settings, config.Perturbation) and self.settings.m_sharpness

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are perturbed."""
        if getattr(self.settings, "only", "all") == "all":
            return list(self.model.parameters())
        found = list(dict.fromkeys(norm_parameters(self.model)))  # shared ones once
        if not found:
            raise InputError("only=norm: the model has no normalisation layer with parameters: leave only out")
        return found

    def rule(self, step: int, images: Tensor) -> Rule:
        """Return the gradient rule of a step, counted from 0 over the run."""
        settings = self.settings
        if self._plain(step):
            return sgd
        row = METHODS[type(settings)]
        own = {k: v for k, v in vars(settings).items() if k not in FOR_THE_STEP}
        own["rho" if "rho" in own else "epsilon"] = self.radius_at(step) if self.radius is None else self.radius
        return partial(row.rule, **own, **{name: self._need(name, images) for name in row.needs})

    def _plain(self, step: int) -> bool:
        """Return whether a step is plain whatever the radius."""
        return isinstance(self.settings, config.Sgd) or step % self.settings.perturb_every != 0

    def _need(self, name: str, images: Tensor) -> Any:
        """Return one of the things that rules need beside their settings."""
        if name == "optimizer":
            return self.optimizer
        if name == "generator":
            return self.generator(images.device)
        return self._once((images.device, images.dtype), lambda: self._pixels(images))[name]

    def _pixels(self, images: Tensor) -> dict[str, Tensor]:
        """Return what a pixel of 1 is in the images' units, and the smallest and the largest value of one."""
        mean, std = (
            torch.tensor(values, device=images.device, dtype=images.dtype).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return {"unit": 1 / std, "low": (0 - mean) / std, "high": (1 - mean) / std}

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def radius_factor(schedule: str, step: int, total_steps: int) -> float:
    """Return by what the radius is multiplied at a step: 1, or linearly from 0 to 1 (warmup) or 1 to 0 (decay)."""
    done = step / max(total_steps, 1)
    return {"constant": 1.0, "warmup": done, "decay": 1 - done}[schedule]


def norm_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the affine parameters of a model's normalisation layers (batch, instance, group, layer, RMS)."""
    for module in model.modules():
        if isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)):
            yield from module.parameters(recurse=False)
