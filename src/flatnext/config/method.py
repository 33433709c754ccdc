"""The settings of the methods. What they mean is said by the functions of the same name in `flatnext.methods`."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from flatnext.config.setting import Settings, require, require_finite, setting


@dataclass(frozen=True, kw_only=True)
class Sgd(Settings):
    """Plain training: the gradient of the mini-batch, nothing else."""

    name: ClassVar[str] = "sgd"


@dataclass(frozen=True, kw_only=True)
class Perturbation(Settings):
    """What every method that perturbs can be told besides its own settings."""

    perturb_every: int = setting(1, "perturb every k-th step only; the others are plain")
    radius_schedule: Literal["constant", "warmup", "decay"] = setting(
        "constant", "radius over the run: constant, rising linearly from zero, or falling linearly to zero"
    )
    m_sharpness: bool = setting(False, "with several processes, let each perturb by the gradient of its own images")

    def __post_init__(self) -> None:
        """Check the ranges: no number among the settings is negative."""
        super().__post_init__()
        require(self.perturb_every >= 1, f"perturb_every is {self.perturb_every}: give at least 1")
        share = getattr(self, "ascent_share", 1.0)
        require(0 < share <= 1, f"ascent_share is {share}: give a number above 0, up to 1")
        require_finite(self, *(f.name for f in fields(self) if isinstance(getattr(self, f.name), (int, float))))


@dataclass(frozen=True, kw_only=True)
class Ball(Perturbation):
    """A perturbation of the weights that is clipped to a ball."""

    epsilon: float = setting(0.5, "radius of the ball around the weights (adversarial: around the image, in [0, 1])")
    inner_lr: float = setting(1.0, "step length of the perturbation, in gradients (adversarial: in radii)")
    ball: Literal["tensor", "global"] = setting("tensor", "one ball a parameter tensor, or one over all parameters")


@dataclass(frozen=True, kw_only=True)
class Amp(Ball):
    """Adversarial model perturbation (arXiv 2010.04925)."""

    name: ClassVar[str] = "amp"
    inner_iter: int = setting(1, "perturbation steps; 0 is plain training")
    only: Literal["all", "norm"] = setting("all", "perturb all parameters, or those of the normalisation layers alone")
    ascent_share: float = setting(1.0, "share of each batch that the perturbation is made from; less is cheaper")


@dataclass(frozen=True, kw_only=True)
class MomentumAmp(Ball):
    """AMP along the momentum, at one pass a step (after MSAM, arXiv 2401.12033)."""

    name: ClassVar[str] = "momentum-amp"


@dataclass(frozen=True, kw_only=True)
class Rmp(Ball):
    """A random perturbation of AMP's size, the AMP paper's control."""

    name: ClassVar[str] = "rmp"


@dataclass(frozen=True, kw_only=True)
class Sam(Perturbation):
    """Sharpness-aware minimization (arXiv 2010.01412)."""

    name: ClassVar[str] = "sam"
    rho: float = setting(0.05, "length of the perturbation (asam: relative to the sizes of the weights)")
    only: Literal["all", "norm"] = setting("all", "perturb all parameters, or those of the normalisation layers alone")
    ascent_share: float = setting(1.0, "share of each batch that the perturbation is made from; less is cheaper")


@dataclass(frozen=True, kw_only=True)
class Asam(Sam):
    """Adaptive sharpness-aware minimization (arXiv 2102.11600)."""

    name: ClassVar[str] = "asam"
    rho: float = setting(2.0, "length of the perturbation (asam: relative to the sizes of the weights)")
    eta: float = setting(0.01, "added to the weights' sizes")


@dataclass(frozen=True, kw_only=True)
class Adversarial(Perturbation):
    """Adversarial training: perturbs the images."""

    name: ClassVar[str] = "adversarial"
    epsilon: float = setting(2 / 255, "radius of the ball around an image with pixels in [0, 1]")
    inner_lr: float = setting(1.25, "length of a step, in radii")
    inner_iter: int = setting(1, "perturbation steps; 0 is plain training")
    norm: Literal["linf", "l2"] = setting("linf", "norm of the ball around an image")


Method = Sgd | Amp | MomentumAmp | Rmp | Sam | Asam | Adversarial
METHODS: dict[str, type[Method]] = {cls.name: cls for cls in typing.get_args(Method)}
