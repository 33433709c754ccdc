"""Which recipe of a study to take, and why: by its mean test accuracy, and by what it costs.

Of uneven classes that is the balanced accuracy.
"""

from __future__ import annotations

from flatnext.durations import duration
from flatnext.study.contrasts import Contrast, passes
from flatnext.study.failures import is_sound, warnings
from flatnext.study.groups import Group
from flatnext.study.statistics import FEWEST_SEEDS, estimate, points
from flatnext.study.study import Study
from flatnext.words import counted


def summary(study: Study) -> tuple[str, ...]:
    """Return what a study says, in plain sentences: what to take, what went wrong, and each comparison."""
    return (advice(study), *warnings(study), *comparisons(study))


def comparisons(study: Study) -> tuple[str, ...]:
    """Return a sentence on each contrast."""
    return tuple(contrast.sentence for contrast in study.contrasts)


def advice(study: Study) -> str:
    """Return which recipe to take, and why."""
    if not study.groups:
        return "No run has finished: there is nothing to compare yet."
    sound = [group for group in study.groups if is_sound(group)]
    best = recommended(study)
    if best is None:
        return "Take none of these recipes: none has learned to tell the classes apart."
    of = ", balanced over classes" if study.uneven else ""
    if len(study.groups) == 1:
        return (
            f"{best.label} reaches {_accuracy(study, best)}{of}. No other recipe has a finished run: there is nothing "
            "to compare it with."
        )
    left = len(study.groups) - len(sound)
    among = f" of the {len(sound)} recipes that trained" if left and len(sound) > 1 else ""
    balanced = "balanced " if study.uneven else ""
    why = f"the highest mean {balanced}test accuracy" if len(sound) > 1 else "the only recipe that trained"
    return " ".join(
        [f"Take {best.label}, {why}{among}: {_accuracy(study, best)}{_cost(study, best)}.", *_doubts(study, best)]
    )


def recommended(study: Study) -> Group | None:
    """Return the group to take: of those that trained, the one with the highest mean test accuracy; None: none did."""
    sound = [group for group in study.groups if is_sound(group)]
    return max(sound, key=lambda group: estimate(study.headline.values(group.label).values()).mean, default=None)


def _accuracy(study: Study, group: Group) -> str:
    """Return `94.90 % (95 % interval 94.70 to 95.10, 5 seeds)`."""
    accuracy = study.headline.estimate(group.label)
    assert accuracy is not None
    seeds = counted(accuracy.n, "seed")
    if accuracy.low is None or accuracy.high is None:
        return f"{points(accuracy.mean)} % ({seeds})"
    interval = f"{points(accuracy.low)} to {points(accuracy.high)}"
    return f"{points(accuracy.mean)} % (95 % interval {interval}, {seeds})"


def _cost(study: Study, group: Group) -> str:
    """Return what a run of a group costs, beside the others that it is compared with."""
    seconds = _seconds(study, group)
    text = f", {duration(seconds)} of training a run" if seconds else ""
    others = {
        other.label: other for contrast in _contrasts(study, group) for other in (contrast.group, contrast.baseline)
    }
    others.pop(group.label, None)
    ratios = [f"{ratio:.2g} times that of {label}" for label, o in others.items() if (ratio := _ratio(study, group, o))]
    return f"{text or ', a cost of training'}, {' and '.join(ratios)}" if ratios else text


def _doubts(study: Study, best: Group) -> list[str]:
    """Return what speaks against taking the best: a cheaper recipe that is not shown to be worse, or too few seeds."""
    texts = []
    seeds = len(study.headline.values(best.label))
    if seeds < FEWEST_SEEDS:
        texts.append(f"With fewer than {FEWEST_SEEDS} seeds this may be chance: run at least {FEWEST_SEEDS}.")
    for contrast in _contrasts(study, best):
        other = contrast.baseline if contrast.group is best else contrast.group
        is_open = contrast.comparison is not None and contrast.comparison.verdict == "open"
        if is_open and is_sound(other) and (ratio := _ratio(study, other, best)) and ratio < 1:
            texts.append(f"{other.label} costs less and is not shown to be worse: take it where training time counts.")
    return texts


def _contrasts(study: Study, group: Group) -> list[Contrast]:
    return [contrast for contrast in study.contrasts if group in (contrast.group, contrast.baseline)]


def _seconds(study: Study, group: Group) -> float | None:
    """Return the mean training time of a run in seconds."""
    (quantity,) = study.select("train_seconds")
    seconds = quantity.estimate(group.label)
    return seconds.mean if seconds else None


def _ratio(study: Study, group: Group, other: Group) -> float:
    """Return what a run of one group costs relative to another: in time on the same machine, else in passes."""
    (quantity,) = study.select("train_seconds")
    ours, theirs = _seconds(study, group), _seconds(study, other)
    if ours and theirs and not quantity.problem(group.label, other.label):
        return ours / theirs
    return passes(group) / passes(other)
