"""The report's part on classes: accuracy of each, and what is taken for what."""

from __future__ import annotations

import numpy as np

from flatnext.report import figures
from flatnext.report.blocks import Block, Details, Figure, Section, Table, Text
from flatnext.report.numbers import DASH, interval
from flatnext.study.statistics import compare_paired, estimate, points
from flatnext.study.table import Contrast, Group, Study

FEW = 20
"""Up to this many classes a confusion matrix is a table; beyond, a picture and a list of the most frequent errors."""

LISTED = 15


def classes(study: Study) -> Section:
    """Return accuracy by class, with paired differences, and the confusion matrices, all of the last epoch."""
    names = study.groups[0].runs[0].environment.classes
    table = _by_class(study, names)
    blocks: list[Block] = [table]
    if len(names) > FEW:
        blocks = [Details(f"Accuracy of each of the {len(names)} classes", (table,))]
    if study.contrasts:
        blocks.append(
            Text("The intervals by class are not corrected for the number of classes: some miss zero by chance.")
        )
    if len(names) > FEW:
        for number, group in enumerate(study.groups):
            blocks += _confusion_picture(number, group, names)
    else:
        darkest = max(map(_largest_error, study.groups))  # one scale for all recipes
        blocks += [_confusion_table(group, names, darkest) for group in study.groups]
    return Section("classes", "Classes", tuple(blocks))


def matrices(group: Group) -> dict[int, np.ndarray]:
    """Return the confusion matrix of the last epoch by seed, true class by row."""
    return {seed: np.array(c.test.confusion) for seed, c in group.checkpoints().items()}


def _recall(by_seed: dict[int, np.ndarray], index: int) -> dict[int, float]:
    """Return by seed the share of the class's test images that were recognised; no seed where it has no images."""
    counted = {seed: (matrix[index, index], matrix[index].sum()) for seed, matrix in by_seed.items()}
    return {seed: float(right / total) for seed, (right, total) in counted.items() if total}


def _by_class(study: Study, names: tuple[str, ...]) -> Table:
    rows = []
    counts = {group.label: matrices(group) for group in study.groups}
    for index, name in enumerate(names):
        recalls = {label: _recall(by_seed, index) for label, by_seed in counts.items()}
        means = [points(estimate(by_seed.values()).mean) if by_seed else DASH for by_seed in recalls.values()]
        rows.append((name, *means, *(cell for contrast in study.contrasts for cell in _difference(contrast, recalls))))
    header = ["class", *(group.label for group in study.groups)]
    for contrast in study.contrasts:
        header += [f"{contrast.group.label} − {contrast.baseline.label}", "95 % interval"]
    caption = "Accuracy by class (%), mean over seeds; paired differences in points"
    return Table(caption, tuple(header), tuple(rows))


def _difference(contrast: Contrast, recalls: dict[str, dict[int, float]]) -> tuple[str, str]:
    ours, theirs = recalls[contrast.group.label], recalls[contrast.baseline.label]
    if not ours.keys() & theirs.keys():
        return DASH, DASH
    difference = compare_paired(ours, theirs).difference
    return points(difference.mean, sign=True), interval(difference, sign=True)


def _total(group: Group) -> np.ndarray:
    return np.sum(list(matrices(group).values()), axis=0)


def _share(matrix: np.ndarray) -> np.ndarray:
    """Return each row as shares of its true class."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _confusion_table(group: Group, names: tuple[str, ...], darkest: float) -> Table:
    total = _total(group)
    share = _share(total)
    heat = np.sqrt(share / darkest)  # most confusions are rare: the root keeps them visible
    np.fill_diagonal(heat, -np.diag(share))
    rows = tuple((name, *map(str, total[index])) for index, name in enumerate(names))
    caption = f"{group.label}: test images by true class (row) and predicted class (column), {_seeds(group)}"
    return Table(caption, ("true class", *names), rows, heat=tuple(map(tuple, heat.tolist())))


def _largest_error(group: Group) -> float:
    share = _share(_total(group))
    return max(float((share - np.diag(np.diag(share))).max()), 1e-9)


def _confusion_picture(number: int, group: Group, names: tuple[str, ...]) -> list[Block]:
    total = _total(group)
    share = _share(total)
    errors = [(i, j) for i in range(len(names)) for j in range(len(names)) if i != j and total[i, j]]
    errors.sort(key=lambda pair: (-share[pair], pair))
    rows = tuple(
        (f"{names[i]} taken for {names[j]}", str(total[i, j]), points(float(share[i, j]))) for i, j in errors[:LISTED]
    )
    alt = f"Confusion matrix of {group.label}, {len(names)} classes, as shades"
    figure = Figure(
        f"{group.label}: what is taken for what, {_seeds(group)}; classes are numbered from 0 in the data set's order",
        (figures.confusion(f"confusion-{number}", alt, share),),
    )
    header = ("error", "images", "of the true class (%)")
    return [figure, Table(f"{group.label}: the most frequent errors, {_seeds(group)}", header, rows)]


def _seeds(group: Group) -> str:
    return "one seed" if len(group.runs) == 1 else f"summed over {len(group.runs)} seeds"
