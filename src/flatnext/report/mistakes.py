"""Galleries of the most confident errors, with maps of what the network looked at where those were made."""

from __future__ import annotations

from collections.abc import Sequence

from flatnext.report.blocks import Block, Details, Gallery, Picture, Section, Text, View
from flatnext.report.numbers import certainty
from flatnext.runs.evidence import ExplainedMistake
from flatnext.runs.records import RunRecord
from flatnext.runs.scores import Mistake
from flatnext.study.groups import Group
from flatnext.study.study import Study
from flatnext.words import counted

SHOWN, SHOWN_WITH_MAPS = 12, 8


def mistakes(study: Study) -> Section:
    """Return each recipe's misclassified test images with the highest confidence over its seeds, and the maps."""
    galleries = [_gallery(study, group, with_maps=False) for group in study.groups]
    explained = [_gallery(study, group, with_maps=True) for group in study.groups]
    blocks: list[Block] = [gallery for gallery in galleries if gallery]
    text = "Test images that the last epoch's network got wrong, with the confidence it gave to the wrong class."
    blocks.insert(0, Text(text if blocks else "No misclassified image was recorded."))
    if any(explained):
        note = Text(
            "Grad-CAM (arXiv 1610.02391) shades what speaks for a class in the last stage's output: bright is strong, "
            "each map by its own scale. It shows where, not why."
        )
        blocks.append(Details("Where the network looked when it was wrong", (note, *filter(None, explained))))
    return Section("mistakes", "Most confident errors", tuple(blocks))


def _gallery(study: Study, group: Group, *, with_maps: bool) -> Gallery | None:
    """Return the pictures of each misclassified image once, from the run that was most confident."""
    runs = [(run.config.seed, _mistakes(run, with_maps)) for run in group.runs]
    runs = [(seed, items) for seed, items in runs if items]
    ranked = sorted(
        ((mistake, seed) for seed, items in runs for mistake in items),
        key=lambda pair: (-pair[0].confidence, pair[0].index, pair[1]),
    )
    first: dict[int, tuple[Mistake, int]] = {}
    for mistake, seed in ranked:
        first.setdefault(mistake.index, (mistake, seed))
    name = f"{'looked' if with_maps else 'mistake'}-{study.groups.index(group)}"
    shown = list(first.values())[: SHOWN_WITH_MAPS if with_maps else SHOWN]
    pictures = tuple(_picture(name, mistake, seed, group.runs[0].environment.classes) for mistake, seed in shown)
    caption = f"{group.label}: the most confident errors of {counted(len(runs), 'run')}"
    return Gallery(caption, pictures) if pictures else None


def _mistakes(run: RunRecord, with_maps: bool) -> Sequence[Mistake]:
    if not with_maps:
        return run.result.mistakes
    return run.evidence.errors.result.mistakes if run.evidence and run.evidence.errors else ()


def _picture(name: str, mistake: Mistake, seed: int, classes: tuple[str, ...]) -> Picture:
    name = f"{name}-{mistake.index}"
    predicted, true = classes[mistake.predicted], classes[mistake.label]
    maps: list[tuple[str, str, str | None]] = []
    if isinstance(mistake, ExplainedMistake):
        maps = [("predicted", predicted, mistake.cam), ("true", true, mistake.cam_label)]
    return Picture(
        name=name,
        alt=f"test image {mistake.index}" + (f", {mistake.file}" if mistake.file else ""),
        png=mistake.png,
        lines=(
            *((mistake.file,) if mistake.file else ()),
            f"is {true}",
            f"taken for {predicted}",
            f"{certainty(mistake.confidence)}, seed {seed}",
        ),
        views=tuple(View(f"{name}-{which}", f"for {label}", png) for which, label, png in maps if png is not None),
    )
