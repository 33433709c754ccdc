"""Recipes that did not train as they should: collapsed, diverged, undertrained or unfinished, and what to try."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from flatnext.config import Config, Sgd
from flatnext.runs.class_balance import majority, predicted_sizes, tells_apart
from flatnext.runs.records import RunRecord, UnfinishedRun
from flatnext.study.groups import Group
from flatnext.study.statistics import points, wilson
from flatnext.study.study import Study
from flatnext.words import counted

NEARLY_ALL = 0.9
"""A network that predicts one class for so large a share of the other classes' images has collapsed."""

ABOVE_A_GUESS = 1.1
"""A training loss so many times that of equal probabilities is worse than no training."""

LEARNING = 0.95
"""A training loss below so much of that of equal probabilities, and the lowest so far, says: more epochs may help."""

UNDERTRAINED = "is undertrained"

NAMED = 3
"""Up to so many runs are named in a sentence."""


def failure(run: RunRecord) -> tuple[str, str] | None:
    """Return what went wrong in a finished run, and how its last epoch shows it; None if nothing did."""
    scores = run.result.last.test
    if scores.not_finite or scores.loss is None:
        images = f" on {counted(scores.not_finite, 'test image')}" if scores.not_finite else ""
        return "diverged", f"its outputs or its loss are not finite{images}"
    losses, guess = [epoch.train_loss for epoch in run.epochs], math.log(max(2, len(run.environment.classes)))
    if reason := _collapse(run):
        if losses and losses[-1] < LEARNING * guess and losses[-1] == min(losses):
            return UNDERTRAINED, f"{reason}, while its training loss, {losses[-1]:.3g}, still fell"
        return "collapsed", reason
    if losses and losses[-1] > ABOVE_A_GUESS * guess:
        return "diverged", f"its training loss, {losses[-1]:.3g}, is above that of guessing, {guess:.3g}"
    return None


def _collapse(run: RunRecord) -> str:
    scores, classes = run.result.last.test, run.environment.classes
    if scores.confusion is None or len(classes) < 2:
        return ""
    largest, share = majority(scores.confusion)
    predicted = predicted_sizes(scores.confusion)
    most = predicted.index(max(predicted))
    others = scores.count - sum(scores.confusion[most])
    if others and predicted[most] - scores.confusion[most][most] >= NEARLY_ALL * others:
        return f"it predicts “{classes[most]}” for {predicted[most]:,} of {counted(scores.count, 'test image')}"
    if wilson(scores.accuracy, scores.count)[0] <= share and not tells_apart(scores.confusion):
        accuracy = f"{points(scores.accuracy)} % accuracy"
        return f"{accuracy} is within chance of always answering “{classes[largest]}” ({points(share)} %)"
    return ""


def is_sound(study: Study, group: Group) -> bool:
    """Return whether no run of a group failed, collapsed, diverged or is undertrained."""
    config = replace(group.config, seed=0)
    failed = (run.config for run in study.left_out if run.failed and run.config is not None)
    return not any(map(failure, group.runs)) and all(replace(other, seed=0) != config for other in failed)


def warnings(study: Study) -> tuple[str, ...]:
    """Return a sentence or two on each recipe that did not train as it should, with what to try."""
    finished = [text for group in study.groups for text in _of_group(group)]
    return (*finished, *_failed(study), *_unfinished(study))


def _of_group(group: Group) -> list[str]:
    by_kind: dict[str, list[str]] = {}
    for run in group.runs:
        if found := failure(run):
            kind, reason = found
            by_kind.setdefault(kind, []).append(f"{reason} (seed {run.config.seed})")
    runs = len(group.runs)
    return [
        f"{group.label} {kind} in {f'{len(reasons)} of {runs} runs' if runs > 1 else 'its only run'}: {reasons[0]}. "
        f"{remedy(group.config, undertrained=kind == UNDERTRAINED)}"
        for kind, reasons in by_kind.items()
    ]


def remedy(config: Config, *, undertrained: bool = False) -> str:
    """Return what to try where a run collapsed or diverged; where it is `undertrained`, more epochs before all."""
    tries, method = [], config.method
    if not isinstance(method, Sgd) and (radius := getattr(method, method.radius)):
        tries.append(
            f"a smaller radius (--{method.radius.replace('_', '-')} {radius / 10:.3g} instead of {radius:.3g})"
        )
    tries.append(f"a longer warm-up (--warmup-epochs, now {config.schedule.warmup_epochs:g})")
    rate = config.optimizer.learning_rate
    tries.append(f"a lower rate (--lr {rate / 10:.3g} instead of {rate:.3g})")
    tries.insert(0 if undertrained else len(tries), f"more epochs (--epochs, now {config.epochs})")
    return f"Try {', '.join(tries[:-1])}, or {tries[-1]}."


def _failed(study: Study) -> list[str]:
    failed: dict[str, list[tuple[UnfinishedRun, Config]]] = {}
    for run in study.left_out:
        if run.failed and run.config is not None:
            failed.setdefault(run.config.recipe, []).append((run, run.config))
    return [
        f"{recipe} failed: {_named(run for run, _ in runs)}. {remedy(runs[0][1])}" for recipe, runs in failed.items()
    ]


def _unfinished(study: Study) -> list[str]:
    runs = [run for run in study.left_out if run.planned and not run.failed]
    if not runs:
        return []
    are = "run is" if len(runs) == 1 else "runs are"
    return [
        f"{len(runs)} {are} unfinished: {_named(runs)}. The command that began the study goes on with what is left."
    ]


def _named(runs: Iterable[UnfinishedRun]) -> str:
    texts = [f"{run.name} ({run.reason})" for run in runs]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return "; ".join(texts[:NAMED]) + more
