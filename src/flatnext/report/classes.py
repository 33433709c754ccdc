"""The report's part on classes: accuracy of each, and what is taken for what."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from flatnext.report.blocks import Block, Figure, Panel, Section, Table, Text
from flatnext.report.drawing import panel
from flatnext.report.svg import WRONG
from flatnext.report.tables import folded, quantity_table
from flatnext.study.groups import Group
from flatnext.study.quantities import Quantity
from flatnext.study.statistics import points
from flatnext.study.study import Study
from flatnext.words import counted

FEW = 30
"""Up to this many classes a confusion matrix is a table; beyond, a picture and a list of the most frequent errors."""

MANY = 100
"""Of more classes only `LISTED` get a row: those that are recognised least."""

LISTED = 20


def classes(study: Study) -> Section:
    """Return accuracy by class, with paired differences, and the confusion matrices, all of the last epoch.

    Of uneven classes F1 comes first.
    """
    names = study.runs[0].environment.classes
    recalls, scores = study.select("recall.*"), study.select("f1.*") if study.uneven else []
    title = f"Accuracy of each of the {len(names)} classes"
    if len(names) > MANY:
        recalls, scores = (sorted(each, key=_mean_over_recipes)[:LISTED] for each in (recalls, scores))
        title = f"Accuracy of the {LISTED} of {len(names):,} classes that are recognised least (all: measurements.csv)"
    blocks = quantity_table(study, "F1 by class, of recall and precision", "class", scores)
    blocks += quantity_table(study, "Accuracy by class", "class", recalls)
    if study.contrasts:
        blocks.append(Text("Each class is corrected by itself: with many, some intervals miss zero by chance."))
    counts = {group.label: _confusion(group) for group in study.groups}
    if len(names) > FEW:
        blocks = folded(title, blocks)
        for number, group in enumerate(study.groups):
            blocks += _picture(number, group, counts[group.label], names)
    else:
        darkest = max(_largest_error(matrix) for matrix in counts.values())  # one scale for all recipes
        blocks += [_table(group, counts[group.label], names, darkest) for group in study.groups]
    return Section("classes", "Classes", tuple(blocks))


def _mean_over_recipes(quantity: Quantity) -> float:
    estimates = [estimate for recipe in quantity.rows if (estimate := quantity.estimate(recipe))]
    return sum(estimate.mean for estimate in estimates) / max(len(estimates), 1)


def _confusion(group: Group) -> np.ndarray:
    """Return the confusion matrix of the last epoch, true class by row, summed over seeds."""
    return np.sum([np.array(run.result.last.test.confusion) for run in group.runs], axis=0)


def _share(matrix: np.ndarray) -> np.ndarray:
    """Return each row as shares of its true class."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _largest_error(matrix: np.ndarray) -> float:
    share = _share(matrix)
    return max(float((share - np.diag(np.diag(share))).max()), 1e-9)


def _table(group: Group, matrix: np.ndarray, names: tuple[str, ...], darkest: float) -> Table:
    share = _share(matrix)
    heat = np.sqrt(share / darkest)  # most confusions are rare: the root keeps them visible
    np.fill_diagonal(heat, -np.diag(share))
    rows = tuple((name, *map(str, matrix[index])) for index, name in enumerate(names))
    caption = f"{group.label}: test images by true class (row) and predicted class (column), {_seeds(group)}"
    return Table(caption, ("true class", *names), rows, heat=tuple(map(tuple, heat.tolist())))


def _picture(number: int, group: Group, matrix: np.ndarray, names: tuple[str, ...]) -> list[Block]:
    share = _share(matrix)
    errors = [(i, j) for i, j in np.argwhere(matrix) if i != j]
    errors.sort(key=lambda pair: (-share[pair], pair))
    rows = tuple(
        (f"{names[i]} taken for {names[j]}", str(matrix[i, j]), points(float(share[i, j]))) for i, j in errors[:LISTED]
    )
    figure = Figure(
        f"{group.label}: what is taken for what, {_seeds(group)}; classes are numbered from 0 in the data set's order",
        (_confusion_panel(number, group, share),),
    )
    header = ("error", "images", "of the true class (%)")
    return [figure, Table(f"{group.label}: the most frequent errors, {_seeds(group)}", header, rows)]


def _confusion_panel(number: int, group: Group, share: np.ndarray) -> Panel:
    """Draw a confusion matrix of many classes: `share` of each true class (row), the diagonal left out."""
    strength = np.sqrt(share)  # most confusions are rare: the root keeps them visible
    np.fill_diagonal(strength, 0)
    image = np.empty((*share.shape, 4))
    image[..., :3] = mpl.colors.to_rgb(WRONG)
    image[..., 3] = strength / max(strength.max(), 1e-9)

    def draw(axes: Axes) -> None:
        axes.imshow(image, interpolation="none")
        axes.set_xlabel("predicted class (number)")
        axes.set_ylabel("true class (number)")
        axes.grid(visible=False)

    alt = f"Confusion matrix of {group.label}, {len(share)} classes, as shades"
    return panel(f"confusion-{number}", alt, "Errors, stronger where more frequent", draw, size=(4.0, 4.0))


def _seeds(group: Group) -> str:
    return "one seed" if len(group.runs) == 1 else f"summed over {counted(len(group.runs), 'seed')}"
