"""Files of a run that was stopped."""

from pathlib import Path

from safetensors import safe_open


def state_of(weights: Path) -> Path:
    """Return the file of the state that belongs to a checkpoint's weights."""
    with safe_open(weights, "pt") as file:
        return weights.parent / file.metadata()["state"]
