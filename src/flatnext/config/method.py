"""The settings of the methods. The functions of the same names in `flatnext.methods` say what they mean.

To add a method, write its settings here and its rule in a file of `flatnext.methods`, and add a row to the table in
`flatnext/methods/__init__.py`. The command line and the recipe of its name follow from the settings.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import ClassVar, Literal

from flatnext.config.setting import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Sgd(Settings):
    """Plain training: the gradient of the mini-batch, nothing else."""

    name: ClassVar[str] = "sgd"
    passes: ClassVar[float] = 1.0
    needs_momentum: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Perturbation(Settings):
    """The settings that all perturbing methods share."""

    radius: ClassVar[str] = "epsilon"
    """The setting that `radius_schedule` acts on."""
    perturbs: ClassVar[Literal["weights", "images"]] = "weights"
    needs_momentum: ClassVar[bool] = False

    perturb_every: int = setting(1, "perturb only every N-th step; the others are plain SGD", at_least=1)
    radius_schedule: Literal["constant", "warmup", "decay"] = setting(
        "constant", "radius over the run: constant, warmup (linearly from zero), or decay (linearly to zero)"
    )
    m_sharpness: bool = setting(
        False, "with several processes: each perturbs by the gradient of its own share of the batch"
    )

    @property
    def passes(self) -> float:
        """Forward and backward passes a step, on average; a pass over a share of the batch counts as that share."""
        share, steps = getattr(self, "ascent_share", 1.0), getattr(self, "inner_iter", 1)
        return 1 + share * steps / self.perturb_every


@dataclass(frozen=True, kw_only=True)
class Ascent(Perturbation):
    """A perturbation of the weights that is made from a gradient of its own."""

    only: Literal["all", "norm"] = setting("all", "perturb all parameters, or only those of normalisation layers")
    ascent_share: float = setting(
        1.0, "share of the batch from which the perturbation is computed; less is faster", above=0, at_most=1
    )


@dataclass(frozen=True, kw_only=True)
class Ball(Perturbation):
    """A perturbation of the weights that is clipped to a ball."""

    epsilon: float = setting(
        0.5, "radius of the ball around the weights (adversarial: around an image with pixels in [0, 1])", at_least=0
    )
    inner_lr: float = setting(
        1.0, "step size of the perturbation, as a factor of the gradient (adversarial: of the radius)", at_least=0
    )
    ball: Literal["tensor", "global"] = setting("tensor", "one ball for each parameter tensor, or one for all together")


@dataclass(frozen=True, kw_only=True)
class Amp(Ascent, Ball):
    """Adversarial model perturbation (arXiv 2010.04925)."""

    name: ClassVar[str] = "amp"
    inner_iter: int = setting(1, "perturbation steps; 0 is plain SGD", at_least=0)


@dataclass(frozen=True, kw_only=True)
class MomentumAmp(Ball):
    """AMP along the momentum, with one pass a step (after MSAM, arXiv 2401.12033)."""

    name: ClassVar[str] = "momentum-amp"
    needs_momentum: ClassVar[bool] = True

    @property
    def passes(self) -> float:
        """Forward and backward passes a step: the perturbed one alone."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Rmp(Ball):
    """A random perturbation of AMP's size, the control of the AMP paper."""

    name: ClassVar[str] = "rmp"


@dataclass(frozen=True, kw_only=True)
class Sam(Ascent):
    """Sharpness-aware minimization (arXiv 2010.01412)."""

    name: ClassVar[str] = "sam"
    radius: ClassVar[str] = "rho"
    rho: float = setting(0.05, "norm of the perturbation (asam: relative to the size of each weight)", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Asam(Sam):
    """Adaptive sharpness-aware minimization (arXiv 2102.11600)."""

    name: ClassVar[str] = "asam"
    rho: float = setting(2.0, "norm of the perturbation (asam: relative to the size of each weight)", at_least=0)
    eta: float = setting(0.01, "added to the size of each weight", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Adversarial(Perturbation):
    """Adversarial training: perturbs the images."""

    name: ClassVar[str] = "adversarial"
    perturbs: ClassVar[Literal["weights", "images"]] = "images"
    epsilon: float = setting(2 / 255, "radius of the ball around an image with pixels in [0, 1]", at_least=0)
    inner_lr: float = setting(1.25, "step size, as a factor of the radius", at_least=0)
    inner_iter: int = setting(1, "perturbation steps; 0 is plain SGD", at_least=0)
    norm: Literal["linf", "l2"] = setting("linf", "norm of the ball around an image")


Method = Sgd | Amp | MomentumAmp | Rmp | Sam | Asam | Adversarial
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in typing.get_args(Method)}
