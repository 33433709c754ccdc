"""The fingerprint of a run's data, by which another day's images are told from those it began with."""

from __future__ import annotations

from dataclasses import dataclass

from flatnext.words import counted, shortened


@dataclass(frozen=True, kw_only=True)
class ImagesFingerprint:
    """A split: the number of images of each class, and the SHA-256 of all pixels and labels, in order."""

    counts: tuple[int, ...]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DataFingerprint:
    """The class names of a run's data, and its splits as they were divided."""

    classes: tuple[str, ...]
    train: ImagesFingerprint
    validation: ImagesFingerprint | None
    test: ImagesFingerprint
    calibration: ImagesFingerprint | None = None


SPLITS = {"train": "training", "validation": "validation", "test": "test", "calibration": "calibration"}
"""Each split as messages call it."""


def change(before: DataFingerprint, now: DataFingerprint, *splits: str) -> str | None:
    """Return what is different in these splits (none given: all) as words for a message; None if nothing is."""
    if before.classes != now.classes:
        return _renamed(before.classes, now.classes)
    for split in splits or SPLITS:
        was, is_now = getattr(before, split), getattr(now, split)
        if was != is_now:
            return _changed_images(SPLITS[split], was, is_now, now.classes)
    return None


def _renamed(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    if not gone and not new:
        return "the classes are in another order"
    parts = [f"{shortened(names)} {verb}" for names, verb in ((gone, "is gone"), (new, "is new")) if names]
    return f"of its classes {' and '.join(parts)}"


def _changed_images(
    split: str, before: ImagesFingerprint | None, now: ImagesFingerprint | None, classes: tuple[str, ...]
) -> str:
    was, is_now = (sum(images.counts) if images else 0 for images in (before, now))
    if was != is_now:
        return f"{counted(was, split + ' image')} {'has' if was == 1 else 'have'} become {is_now:,}"
    if before and now and before.counts != now.counts:
        moved = zip(classes, before.counts, now.counts, strict=True)
        return f"{split} images: {shortened([f'{name} had {a:,} and has {b:,}' for name, a, b in moved if a != b])}"
    return f"pixels or labels of the {is_now:,} {split} images are different"
