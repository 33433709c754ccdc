"""The settings of a run that starts from trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flatnext.config.setting import Settings, require, setting


@dataclass(frozen=True, kw_only=True)
class Start(Settings):
    """The weights that a run starts from, and how they are trained further.

    `weights_sha256` is that of the weights and what their file says of them, without a calibration. It is noted when
    the run begins, so that no others take their place; runs of version 0.1.0 noted that of the file. The head is the
    last, linear layer; the backbone is all before it.
    """

    weights: str | None = setting(
        None, "start from trained weights: a name that `flatnext weights` lists, a weights file, or a run folder"
    )
    weights_sha256: str | None = None
    freeze: Literal["none", "stem", "stages", "all-but-head"] = setting(
        "none",
        "with --weights: parts that are not trained: the stem; stages: the stem and all stages but the last; or all "
        "but the head, the last layer",
    )
    backbone_lr_factor: float = setting(
        1.0, "with --weights: learning rate of all layers before the head, relative to --lr", above=0, at_most=1
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.weights is None:
            for name, default in ALONE.items():
                value = getattr(self, name)
                require(value == default, f"{name} is {value}: it is for a run that starts from weights: give weights")
        require(
            self.freeze != "all-but-head" or self.backbone_lr_factor == 1,
            f"backbone_lr_factor is {self.backbone_lr_factor}: with freeze all-but-head no layer before the head is "
            "trained: leave one of them out",
        )


ALONE = {"weights_sha256": None, "freeze": "none", "backbone_lr_factor": 1.0}
"""The settings of a run with new weights."""


def completed(settings: dict[str, object], before: Start) -> dict[str, object]:
    """Return changed settings with those that go with them: other weights have another SHA-256, or no settings."""
    if "weights" not in settings or settings["weights"] == before.weights:
        return settings
    return (ALONE if settings["weights"] is None else {"weights_sha256": None}) | settings
