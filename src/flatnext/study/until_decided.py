"""A study that adds seeds until its comparisons are decided."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.runs.lock import HeldError, lock
from flatnext.study.plan import RunPlan, plan_in
from flatnext.study.reading import read_study
from flatnext.study.runner import run_study
from flatnext.study.sequential import critical_t
from flatnext.study.statistics import ALPHA
from flatnext.words import counted

FEWEST = next(n for n in itertools.count(2) if critical_t(n, ALPHA) < math.inf)
"""The fewest seeds with which the sequential t-test can decide a comparison: 5."""


POLL_SECONDS = 5.0
"""Between two looks whether another process still has a run."""


def run_until_decided(plan: RunPlan, output: Path, *, display: Display | None = None, **arguments: Any) -> list[str]:
    """Run the plan with its seeds, at least 5, then with one more at a time, until every contrast has a verdict.

    With fewer the sequential t-test never decides. It ends with `plan.max_seeds` seeds in any case. The arguments,
    result and errors are those of `run_study`, but runs that another process has are waited for. Contrasts with recipes
    of an earlier command are not looked at. A study that was stopped goes on; its verdicts come from the sequential
    t-test, which allows for a look after every seed.
    """
    display, most = display or Display(), plan.max_seeds
    if most is None or most < FEWEST:
        raise InputError(f"max_seeds is {most}: give at least {FEWEST}, as with fewer seeds nothing is ever decided")
    if most < len(plan.seeds):
        raise InputError(
            f"max_seeds is {most}, below the {len(plan.seeds)} to begin with: give --seeds {most} or fewer"
        )
    before = plan_in(output)
    begun = len(before.seeds) if before and before.seeds[:1] == plan.seeds[:1] else 0
    count = min(max(len(plan.seeds), FEWEST, begun), most)
    while True:
        plan = replace(plan, seeds=tuple(range(plan.seeds[0], plan.seeds[0] + count)))
        failures = run_study(plan, output, display=display, **arguments)
        arguments["overwrite"] = False  # what was made in this session stays
        if failures:
            return failures
        if left := [run.folder for run in plan.runs(output) if not RunFolder(run.folder).finished()]:
            display.say(f"waiting for {counted(len(left), 'run')} of another process")
            while any(_is_held(folder) for folder in left):
                time.sleep(POLL_SECONDS)
            continue  # they have finished, or are free to be taken
        recipes = {config.recipe for config in plan.configs}
        undecided = [
            contrast
            for contrast in read_study([output]).contrasts
            if {contrast.group.config.recipe, contrast.baseline.config.recipe} <= recipes
            and (contrast.comparison is None or contrast.comparison.verdict == "open")
        ]
        names = ", ".join(contrast.label for contrast in undecided)
        if not undecided:
            display.say(f"decided with {counted(count, 'seed')}")
            return []
        if count == most:
            display.say(f"not decided with {counted(count, 'seed')}, the most allowed: {names}")
            return []
        count += 1
        display.say(f"not decided yet: {names}; seed {plan.seeds[0] + count - 1} is next")


def _is_held(folder: Path) -> bool:
    """Return whether another process has a run that has not finished."""
    try:
        with lock(folder):
            return False
    except HeldError:
        return not RunFolder(folder).finished()
    except InputError:
        if folder.exists():
            raise
        return False  # the run failed before its first step
