"""A method at work in a run: at which steps it perturbs, by which radius, and which tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from flatnext import config
from flatnext.data import Normalization
from flatnext.errors import InputError
from flatnext.seeds import NOISE_STREAM, mix

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BoundMethod:
    """A rule with its settings, and the model and optimizer of a run. It has no state: a step depends on its number.

    A CUDA graph records a step once and replays it. Then `radius` is a tensor that the rule reads its radius from, and
    `prepare` is called before each replay; steps with the same `perturbs_at` do the same work.

    Args:
        rule: the function of the method; see `flatnext.methods.Rule`.
        settings: the settings of the method.
        model: the model whose parameters are perturbed.
        optimizer: the optimizer that takes the steps.
        total_steps: steps of the run, over which the radius schedule goes.
        seed: seed of the run, from which the noise of each step is drawn.
        normalization: how the images were normalised; None where the method does not perturb them.
        generator: source of the noise, on the model's device, if the rule draws noise.
        radius: a 0-dimensional tensor on the model's device, for a step that is recorded; else None.
    """

    rule: Callable[..., Any]
    settings: config.Method
    model: nn.Module
    optimizer: torch.optim.Optimizer
    total_steps: int
    seed: int
    normalization: Normalization | None
    generator: torch.Generator | None = None
    radius: Tensor | None = None

    def __call__(self, closure: Callable[[], T], images: Tensor, step: int, *, divides: bool = False) -> T:
        """Compute the gradient of a batch at a step, counted from 0; `closure` runs the model on `images`.

        `divides` says that the closure does what the method alone cannot: it takes of each pass's images their `share`,
        and with `m_sharpness` leaves the sum over the processes to the last pass. `InputError`: the settings ask for
        either, and the closure does not say so.
        """
        if not divides and (asked := [name for name, value in self._of_closure.items() if value]):
            raise InputError(
                f"{' and '.join(asked)}: only flatnext train does that by itself; leave it out, or see to it in the "
                "closure and call the method with divides=True"
            )
        if self.radius is None:
            self.prepare(step)
        if not isinstance(self.settings, config.Perturbation) or not self.perturbs_at(step):
            return closure()
        tensors = [images] if self.settings.perturbs == "images" else self.parameters
        return self.rule(closure, tensors, self.model.buffers(), **self.arguments(step, images))

    def arguments(self, step: int, images: Tensor) -> dict[str, Any]:
        """Return what the rule takes by its signature: settings by their names, and things of the run."""
        names = keyword_arguments(self.rule)
        given = {**vars(self.settings), "optimizer": self.optimizer, "generator": self.generator}
        if isinstance(self.settings, config.Perturbation):
            given[self.settings.radius] = self.radius_at(step) if self.radius is None else self.radius
        if "unit" in names:
            assert self.normalization is not None
            given |= pixel_range(self.normalization, images)
        return {name: given[name] for name in names}

    def perturbs_at(self, step: int) -> bool:
        """Return whether a step perturbs; if not, it is plain SGD."""
        if not isinstance(self.settings, config.Perturbation) or step % self.settings.perturb_every:
            return False
        lengths = (self.radius_at(step), *(getattr(self.settings, name, 1) for name in ("inner_lr", "inner_iter")))
        return 0 not in lengths

    def prepare(self, step: int) -> None:
        """Set the radius of a step, if it is a tensor, and seed the noise."""
        if self.perturbs_at(step):
            if self.radius is not None:
                self.radius.fill_(self.radius_at(step))
            if self.generator is not None:
                self.generator.manual_seed(mix(self.seed, step, NOISE_STREAM))

    def radius_at(self, step: int) -> float:
        """Return the radius of a step by its schedule; 0 for a method without one."""
        settings = self.settings
        if not isinstance(settings, config.Perturbation):
            return 0.0
        return getattr(settings, settings.radius) * radius_factor(settings.radius_schedule, step, self.total_steps)

    def share(self, step: int, number: int) -> float:
        """Return the share of the batch for pass `number` of a step, from 0: the last pass has all of it."""
        if not self.perturbs_at(step) or number >= getattr(self.settings, "inner_iter", 1):
            return 1.0
        return getattr(self.settings, "ascent_share", 1.0)

    @property
    def m_sharpness(self) -> bool:
        """Whether each process perturbs by its own gradient."""
        return isinstance(self.settings, config.Perturbation) and self.settings.m_sharpness

    @property
    def _of_closure(self) -> dict[str, bool]:
        """Whether the settings ask for something that is done in the closure."""
        share = getattr(self.settings, "ascent_share", 1.0)
        return {f"ascent_share={share}": share < 1, "m_sharpness": self.m_sharpness}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are perturbed, each once: those that are trained now, of all or of the norms."""
        if getattr(self.settings, "only", "all") == "all":
            return [p for p in self.model.parameters() if p.requires_grad]
        of_norms = [p for p in norm_parameters(self.model) if p.requires_grad]
        if not of_norms:
            raise InputError(
                "only=norm: the model has no normalisation layer with parameters that are trained: leave only out"
            )
        return of_norms


@cache
def keyword_arguments(rule: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a rule's keyword-only arguments."""
    return tuple(p.name for p in inspect.signature(rule).parameters.values() if p.kind is p.KEYWORD_ONLY)


def pixel_range(normalization: Normalization, images: Tensor) -> dict[str, Tensor]:
    """Return what a pixel of 1 is in the units of normalised images, and their lowest and highest possible values."""
    normalization = normalization.for_channels(images.shape[1])
    mean, std = (values.to(images.dtype).view(1, -1, 1, 1) for values in normalization.tensors(images.device))
    return {"unit": 1 / std, "low": (0 - mean) / std, "high": (1 - mean) / std}


def radius_factor(schedule: str, step: int, total_steps: int) -> float:
    """Return the factor of the radius at a step: 1, or linearly from 0 to 1 (warmup) or from 1 to 0 (decay)."""
    done = min(step / max(total_steps, 1), 1.0)
    return {"constant": 1.0, "warmup": done, "decay": 1 - done}[schedule]


def norm_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the affine parameters of a model's normalisation layers (batch, instance, group, layer, RMS), each once."""
    kinds = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    layers = (module for module in model.modules() if isinstance(module, kinds))
    yield from dict.fromkeys(p for layer in layers for p in layer.parameters(recurse=False))
