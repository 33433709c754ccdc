"""A comparison of two models in words, and as an HTML page with the images that changed."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from flatnext.deploy.compare import Compared
from flatnext.deploy.comparison import Changes, Comparison
from flatnext.evaluation.metrics import png
from flatnext.report.blocks import Block, Details, Gallery, Key, Picture, Report, Section, Table, Text
from flatnext.report.numbers import certainty
from flatnext.report.page import page
from flatnext.study.statistics import ALPHA, p_digits, p_text, points
from flatnext.words import counted, listing

SHOWN = 48
"""Images of a gallery."""

LISTED = 5
"""Classes that a line names."""


def sentences(comparison: Comparison) -> list[str]:
    """Return the comparison in words: the accuracies, the difference and whether it may be chance, and the classes."""
    changes = comparison.changes
    low, high = (points(end, sign=True) for end in changes.interval)
    shown = "" if changes.p < ALPHA else ": it may be chance"
    lines = [
        f"On {comparison.images} the accuracy is {points(changes.old_accuracy)} % with {comparison.old_name} and "
        f"{points(changes.new_accuracy)} % with {comparison.new_name}.",
        f"The difference is {points(changes.difference, sign=True)} points (95 % interval {low} to {high}){shown}. "
        f"{counted(changes.lost, 'image')} went wrong and {counted(changes.gained, 'image')} became right "
        f"(McNemar's exact test: p {p_text(changes.p)}).",
    ]
    worse = comparison.worse_classes()
    sure = [each for each in worse if each.p < ALPHA]
    if sure:
        texts = [
            f"{each.name} ({each.changes.old_correct:,} to {each.changes.new_correct:,} of {each.changes.count:,})"
            for each in sure[:LISTED]
        ]
        more = f" and {len(sure) - LISTED} more" if len(sure) > LISTED else ""
        lines.append(f"Recognised less often: {listing(texts)}{more}.")
    if unsure := len(worse) - len(sure):
        several = "class is" if unsure == 1 else "classes are"
        lines.append(f"{unsure} {'other ' if sure else ''}{several} recognised less often by what may be chance.")
    return [*lines, *comparison.notes]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison for programs: fractions, counts, and the indices of the images that changed."""
    changes = comparison.changes
    return {
        "old": comparison.old_name,
        "new": comparison.new_name,
        "images": comparison.images,
        **_numbers(changes),
        "interval": list(changes.interval),
        "p": changes.p,
        "classes": [
            {"name": each.name, **_numbers(each.changes), "p": each.changes.p, "p_adjusted": each.p}
            for each in comparison.by_class()
        ],
        "lost_images": comparison.lost().tolist(),
        "gained_images": comparison.gained().tolist(),
        "notes": list(comparison.notes),
    }


def _numbers(changes: Changes) -> dict[str, Any]:
    return {
        "count": changes.count,
        "old_accuracy": changes.old_accuracy,
        "new_accuracy": changes.new_accuracy,
        "difference": changes.difference,
        "lost": changes.lost,
        "gained": changes.gained,
    }


def comparison_page(compared: Compared) -> str:
    """Return the HTML page: the sentences, the classes, and galleries of the images that changed."""
    comparison = compared.comparison
    changes = comparison.changes
    first, second, *others = sentences(comparison)
    keys = (
        Key(
            comparison.old_name,
            f"{points(changes.old_accuracy)} %",
            f"{counted(changes.old_correct, 'image')} right",
            5,
        ),
        Key(
            comparison.new_name,
            f"{points(changes.new_accuracy)} %",
            f"{counted(changes.new_correct, 'image')} right",
            0,
        ),
    )
    galleries: tuple[tuple[str, str, np.ndarray, str], ...] = (
        ("went-wrong", "Went wrong", comparison.lost(), "right before, wrong now"),
        ("became-right", "Became right", comparison.gained(), "wrong before, right now"),
        ("otherwise-wrong", "Wrong in another way", comparison.otherwise_wrong(), "wrong both times, as another class"),
    )
    report = Report(
        title=f"{comparison.new_name}, compared with {comparison.old_name}",
        advice=second,
        warnings=(),
        verdict=(first, *others),
        remarks=(),
        keys=keys,
        sections=(
            Section("classes", "Classes", (_classes(comparison),)),
            *(Section(name, title, _gallery(compared, indices, what)) for name, title, indices, what in galleries),
        ),
        kicker="FlatNeXt comparison of two models",
    )
    return page(report)


def _classes(comparison: Comparison) -> Table:
    """Return the table of classes, those that lost most first."""
    ranked = sorted(comparison.by_class(), key=lambda each: each.changes.new_correct - each.changes.old_correct)
    rows = tuple(
        (
            each.name,
            f"{each.changes.count:,}",
            f"{points(each.changes.old_accuracy)} %",
            f"{points(each.changes.new_accuracy)} %",
            points(each.changes.difference, sign=True),
            f"{each.changes.lost:,}",
            f"{each.changes.gained:,}",
            p_digits(each.p, 4),
        )
        for each in ranked
    )
    return Table(
        "Accuracy by class, with the images that went wrong and became right. p is McNemar's, corrected by Holm for "
        "the number of classes: above 0.05 a difference may be chance.",
        ("class", "images", "old", "new", "points", "lost", "gained", "p"),
        rows,
    )


def _gallery(compared: Compared, indices: np.ndarray, what: str) -> tuple[Block, ...]:
    if not len(indices):
        return (Text(f"No image was {what}."),)
    verb = "image was" if len(indices) == 1 else "images were"
    text = f"{len(indices):,} {verb} {what}"
    shown = f"; these {SHOWN} are those of the highest confidence in the wrong class" if len(indices) > SHOWN else ""
    gallery = Gallery(f"{text}{shown}.", tuple(_picture(compared, int(index)) for index in indices[:SHOWN]))
    rest = indices[SHOWN:]
    if not len(rest):
        return (gallery,)
    names = compared.split.names
    listed = ", ".join(names[index] if names else str(index) for index in rest.tolist())
    return gallery, Details(f"The other {len(rest):,}, by {'name' if names else 'number'}", (Text(listed),))


def _picture(compared: Compared, index: int) -> Picture:
    comparison, names = compared.comparison, compared.split.names
    classes = comparison.classes
    old, new = (classes[int(places[index])] for places in (comparison.old, comparison.new))
    name = names[index] if names else f"image {index}"
    return Picture(
        name=f"changed-{index}",
        alt=name,
        png=base64.b64encode(png(compared.split.images[index])).decode(),
        lines=(
            f"is {classes[int(comparison.labels[index])]}",
            f"old: {old}, {certainty(float(comparison.old_confidence[index]))}",
            f"new: {new}, {certainty(float(comparison.new_confidence[index]))}",
            name,
        ),
    )
