"""Which recipe of a study to take, and why: by its mean test accuracy, and by what it costs.

Of uneven classes that is the balanced accuracy. Where the highest is not shown to be better than a cheaper one, the
cheaper is to be taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from flatnext.study.contrasts import Contrast
from flatnext.study.failures import is_sound, warnings
from flatnext.study.groups import Group
from flatnext.study.statistics import FEWEST_SEEDS, adjust, estimate, points
from flatnext.study.study import Study
from flatnext.words import counted, duration

CHEAPER = 0.9
"""A recipe that costs less than so much of another is cheaper: times of the same work differ by some per cent."""


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
    sound = [group for group in study.groups if is_sound(study, group)]
    best = recommended(study)
    if best is None:
        return "Take none of these recipes: none has learned to tell the classes apart."
    of = ", balanced over classes" if study.uneven else ""
    if len(study.groups) == 1:
        return (
            f"{best.label} reaches {_accuracy(study, best)}{of}. No other recipe has a finished run: there is nothing "
            "to compare it with."
        )
    among = f" of the {len(sound)} recipes that trained" if 1 < len(sound) < len(study.groups) else ""
    highest = _highest(study, _not_worse(study))
    if highest is not _highest(study, sound):  # as recipes have different seeds
        among = " of the recipes that are not shown to be worse than another"
    name = f"highest mean {'balanced ' if study.uneven else ''}test accuracy{among}"
    why, rest = f"the {name}" if len(sound) > 1 else "the only recipe that trained", ""
    if best is not highest:
        why = f"as no recipe is shown to be better and {highest.label} costs more"
        rest = f" The {name} is that of {highest.label}, {_accuracy(study, highest)}."
    if len(study.headline.values(best.label)) < FEWEST_SEEDS:
        rest += f" With fewer than {FEWEST_SEEDS} seeds this may be chance: run at least {FEWEST_SEEDS}."
    return f"Take {best.label}, {why}: {_accuracy(study, best)}{_cost(study, best)}.{rest}"


def recommended(study: Study) -> Group | None:
    """Return the group to take: of those that trained, the one with the highest mean test accuracy; None: none did.

    Where that is not shown to be better than some that cost less, it is the cheapest of these. None that is shown to be
    worse than another is taken.
    """
    candidates = _not_worse(study)
    if not candidates:
        return None
    highest = _highest(study, candidates)
    costs = {group.label: _cost_ratio(study, group, highest) for group in candidates}
    cheaper = [group for group in candidates if costs[group.label] < CHEAPER]
    verdicts = dict(zip((group.label for group in cheaper), _verdicts(study, highest, cheaper), strict=True))
    as_good = [group for group in cheaper if verdicts[group.label] != "higher"]
    return min(as_good, key=lambda group: costs[group.label], default=highest)


def _not_worse(study: Study) -> list[Group]:
    """Return the groups that trained, without those that a contrast shows to be worse than another of them."""
    sound = [group for group in study.groups if is_sound(study, group)]
    labels = {group.label for group in sound}
    worse = {
        contrast.recipes[verdict == "higher"]
        for contrast in study.contrasts
        if {*contrast.recipes} <= labels and contrast.comparison is not None
        for verdict in (contrast.comparison.verdict,)
        if verdict != "open"
    }
    return [group for group in sound if group.label not in worse] or sound


def _highest(study: Study, groups: Sequence[Group]) -> Group:
    """Return the group with the highest mean test accuracy."""
    return max(groups, key=lambda group: estimate(study.headline.values(group.label).values()).mean)


def _verdicts(study: Study, group: Group, others: Sequence[Group]) -> list[str]:
    """Return whether a group is `higher` or `lower` than each of the others, or that is `open`.

    What no contrast says is compared here, with Holm's correction for the contrasts as well.
    """
    turned = {"higher": "lower", "lower": "higher", "open": "open"}
    known = {contrast.recipes: contrast.comparison for contrast in study.contrasts}
    rest = [other for other in others if not {(group.label, other.label), (other.label, group.label)} & known.keys()]
    made = [study.headline.compare(group.label, other.label) for other in rest]
    corrected = iter(adjust([c for c in made if c is not None], len(known) + study.missing + made.count(None)))
    known |= {(group.label, o.label): c and next(corrected) for o, c in zip(rest, made, strict=True)}
    verdicts = []
    for other in others:
        ours, theirs = known.get((group.label, other.label)), known.get((other.label, group.label))
        verdicts.append(ours.verdict if ours else turned[theirs.verdict] if theirs else "open")
    return verdicts


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
    texts = [f"{duration(seconds)} of training a run"] if seconds else []
    others = {
        other.label: other for contrast in _contrasts(study, group) for other in (contrast.group, contrast.baseline)
    }
    others.pop(group.label, None)
    ratios = [
        f"{ratio:.2g} times that of {label}"
        if (ratio := _time_ratio(study, group, other))
        else f"{group.config.passes / other.config.passes:.2g} times the passes of {label}"
        for label, other in others.items()
    ]
    return "".join(f", {text}" for text in (*texts, " and ".join(ratios)) if text)


def _contrasts(study: Study, group: Group) -> list[Contrast]:
    return [contrast for contrast in study.contrasts if group.label in contrast.recipes]


def _seconds(study: Study, group: Group) -> float | None:
    """Return the mean training time of a run in seconds."""
    (quantity,) = study.select("train_seconds")
    seconds = quantity.estimate(group.label)
    return seconds.mean if seconds else None


def _cost_ratio(study: Study, group: Group, other: Group) -> float:
    """Return what a run of one group costs relative to another: in time on the same machine, else in passes."""
    return _time_ratio(study, group, other) or group.config.passes / other.config.passes


def _time_ratio(study: Study, group: Group, other: Group) -> float | None:
    """Return the time of a run of one group relative to another, None where they were not timed alike."""
    (quantity,) = study.select("train_seconds")
    ours, theirs = _seconds(study, group), _seconds(study, other)
    timed = ours and theirs and not quantity.problem(group.label, other.label)
    return ours / theirs if timed and ours and theirs else None
