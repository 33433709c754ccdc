"""The surest mistakes with the places that the network looked at."""

from __future__ import annotations

from flatnext.report.blocks import Block, Details, Gallery, Picture, Text, View
from flatnext.report.numbers import certainty
from flatnext.runs.evidence import ExplainedMistake
from flatnext.study.table import Group, Study

SHOWN = 8


def galleries(study: Study) -> list[Block]:
    """Return for each recipe the surest mistakes over its seeds with Grad-CAM maps, folded away."""
    found = [gallery for number, group in enumerate(study.groups) if (gallery := _gallery(number, group))]
    if not found:
        return []
    text = Text(
        "Grad-CAM (arXiv 1610.02391) shades what speaks for a class in the last stage's output: bright is strong, each "
        "map by its own scale. It shows where, not why."
    )
    return [Details("Where the network looked when it was wrong", (text, *found))]


def _gallery(number: int, group: Group) -> Gallery | None:
    classes = group.runs[0].environment.classes
    parts = [(run.config.seed, run.evidence.errors) for run in group.runs if run.evidence and run.evidence.errors]
    surest = sorted(
        ((mistake, seed) for seed, part in parts for mistake in part.result.mistakes),
        key=lambda pair: (-pair[0].confidence, pair[0].index, pair[1]),
    )
    once: dict[int, tuple[ExplainedMistake, int]] = {}
    for mistake, seed in surest:
        once.setdefault(mistake.index, (mistake, seed))
    pictures = tuple(_picture(number, m, seed, classes) for m, seed in list(once.values())[:SHOWN])
    if not pictures:
        return None
    images = " or ".join(sorted({f"{part.result.count:,}" for _, part in parts}))
    runs = "one run" if len(parts) == 1 else f"{len(parts)} runs"
    return Gallery(f"{group.label}: the surest mistakes of {runs} on {images} test images", pictures)


def _picture(number: int, mistake: ExplainedMistake, seed: int, classes: tuple[str, ...]) -> Picture:
    name = f"looked-{number}-{mistake.index}"
    taken, true = classes[mistake.predicted], classes[mistake.label]
    maps = ((f"{name}-predicted", taken, mistake.cam), (f"{name}-true", true, mistake.cam_label))
    return Picture(
        name=name,
        alt=f"test image {mistake.index}",
        png=mistake.png,
        lines=(f"is {true}", f"taken for {taken}", f"{certainty(mistake.confidence)}, seed {seed}"),
        views=tuple(View(file, f"for {label}", png) for file, label, png in maps if png is not None),
    )
