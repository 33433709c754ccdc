"""Which runs a study is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatnext.config import METHODS, Config, Sgd, with_model
from flatnext.config.data import READING
from flatnext.errors import InputError
from flatnext.files import write_json
from flatnext.runs.lock import wait_for_lock
from flatnext.runs.reading import STUDY, read_plan
from flatnext.runs.records import StudyPlan
from flatnext.schema import dump
from flatnext.study.contrasts import default_pairs
from flatnext.study.groups import Group

if TYPE_CHECKING:  # it imports torch, and a report reads plans without
    from flatnext.study.division import Division


@dataclass(frozen=True)
class PlannedRun:
    """One run: its config and its folder inside the study's."""

    config: Config
    folder: Path


@dataclass(frozen=True)
class RunPlan:
    """Recipes x seeds, in the order in which they run: all recipes with the first seed, then with the next.

    `contrasts` are the pairs of recipes to compare, the baseline last; none: each method with plain SGD. `max_seeds`:
    seeds are added until the contrasts are decided, up to so many. The seeds in the configs do not count, and become 0.
    """

    configs: tuple[Config, ...]
    seeds: tuple[int, ...]
    contrasts: tuple[tuple[str, str], ...] = ()
    max_seeds: int | None = None

    def __post_init__(self) -> None:
        """Check that there is something to run, once each."""
        object.__setattr__(self, "configs", tuple(replace(config, seed=0) for config in self.configs))
        names = [config.recipe for config in self.configs]
        if not names or not self.seeds:
            raise InputError("a study needs at least one recipe and one seed")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"recipe {name} is given twice: name each once")
        first = self.configs[0]
        for other in self.configs[1:]:
            for name in (*READING, "split_seed"):
                value, differing = getattr(first.data, name), getattr(other.data, name)
                if value != differing:
                    flag = name.replace("_", "-")
                    raise InputError(f"{first.recipe} has {name} {value} and {other.recipe} {differing}: give --{flag}")
        for first, other in itertools.combinations(self.configs, 2):
            if replace(other, recipe=first.recipe) == first:
                raise InputError(f"{first.recipe} and {other.recipe} are the same but for the name: leave one out")
        try:
            self.record()
        except ValueError as error:
            raise InputError(f"{error}: give --contrasts RECIPE:BASELINE, such as amp:sgd") from error

    def record(self, command: str = "") -> StudyPlan:
        """Return what is kept of the plan in `study.json`."""
        recipes = tuple(config.recipe for config in self.configs)
        defaults = () if self.contrasts else tuple(_default_names(self.configs))
        return StudyPlan(
            recipes=recipes,
            seeds=self.seeds,
            command=command,
            contrasts=self.contrasts,
            max_seeds=self.max_seeds,
            comparisons=len(self.contrasts or defaults),
            begun_with=len(self.seeds),
            defaults=defaults,
        )

    def runs(self, output: Path) -> list[PlannedRun]:
        """Return the runs; a study that is cut short has complete pairs of the seeds that it reached."""
        return [
            PlannedRun(replace(config, seed=seed), output / config.recipe / f"seed-{seed}")
            for seed in self.seeds
            for config in self.configs
        ]

    def write(self, output: Path, command: str, division: Division | None = None, *, overwrite: bool = False) -> None:
        """Write `study.json`: what is planned, by which command, and how the machine is divided.

        Recipes and contrasts of commands before stay, also of one that came meanwhile; and how the machine was divided
        for the first runs, unless these are overwritten.
        """
        with wait_for_lock(output):
            before = plan_in(output)
            check_goes_on(self, before, output)
            record = self._joined(command, before)
            kept = before if before and before.jobs and not overwrite else division
            if kept:
                record = replace(record, jobs=kept.jobs, threads=kept.threads)
            write_json(output / STUDY, dump(record))

    def _joined(self, command: str, before: StudyPlan | None) -> StudyPlan:
        """Return what is planned now and before."""
        record = self.record(command)
        if before:
            contrasts = self._with_those(before)
            defaults = () if contrasts else tuple(dict.fromkeys([*before.defaults, *record.defaults]))
            record = replace(
                record,
                recipes=tuple(dict.fromkeys([*record.recipes, *before.recipes])),
                contrasts=contrasts,
                comparisons=len(contrasts) or max(len(defaults), before.comparisons or 0),
                defaults=defaults,
                begun_with=before.begun_with or len(before.seeds),
            )
        return record

    def kept(self, before: StudyPlan | None) -> tuple[tuple[str, str], ...]:
        """Return the contrasts of an earlier command that this one does not name: they count as well."""
        return tuple(pair for pair in (before.contrasts if before else ()) if pair not in self.contrasts)

    def _with_those(self, before: StudyPlan) -> tuple[tuple[str, str], ...]:
        """Return the contrasts with those that were planned before: what has been seen chooses none of them away.

        Without any by name, those of an earlier command stand, and new recipes are compared as by default.
        """
        if not (self.contrasts or before.contrasts):
            return ()
        of_before = [config for config in self.configs if config.recipe in before.recipes]
        earlier = before.contrasts or before.defaults or _default_names(of_before)
        defaults = _default_names(self.configs)
        own = self.contrasts or [pair for pair in defaults if not {*pair} <= {*before.recipes}]
        return tuple(dict.fromkeys([*earlier, *own]))


def _default_names(configs: Iterable[Config]) -> list[tuple[str, str]]:
    pairs = default_pairs([Group(config.recipe, config, ()) for config in configs])
    return [(group.config.recipe, other.config.recipe) for group, other in pairs]


def plan_in(output: Path) -> StudyPlan | None:
    """Return the plan of the study in a folder; None where there is none."""
    return read_plan(output / STUDY) if (output / STUDY).is_file() else None


def check_goes_on(plan: RunPlan, before: StudyPlan | None, output: Path) -> None:
    """Raise `InputError` where the study before added seeds until it had decided, and this one has a fixed number.

    What was seen after each seed has decided how many there are: the ordinary t-test does not hold of them any more,
    nor of the same runs made again.
    """
    if before and before.max_seeds and plan.max_seeds is None:
        raise InputError(
            f"{output} holds a study that was begun with --until-decided: give it again, or another --output"
        )


def override_each(configs: Sequence[Config], settings: Mapping[str, Any]) -> list[Config]:
    """Return the configs with these settings changed. A setting of a method changes the configs with that method.

    Raises `InputError` if no config has the setting.
    """
    of_methods = {item.name for kind in METHODS.values() for item in fields(kind)}
    changed = [config.override({n: v for n, v in settings.items() if n not in of_methods}) for config in configs]
    special = {name: value for name, value in settings.items() if name in of_methods}
    for name in special:
        if not any(hasattr(config.method, name) for config in changed):
            raise InputError(f"none of the recipes {', '.join(c.recipe for c in changed)} has a setting {name!r}")
    return [c.override({n: v for n, v in special.items() if hasattr(c.method, n)}) for c in changed]


def with_models(configs: Sequence[Config], names: Sequence[str]) -> list[Config]:
    """Return each config with each named model, as recipe RECIPE-MODEL. `InputError`: a name is unknown."""
    return [with_model(config, name) for config in configs for name in names]


def with_equal_compute(configs: Sequence[Config]) -> list[Config]:
    """Return the configs and one more: plain SGD with as many passes as the dearest method, as recipe `sgd-2x`.

    It has the settings of that method's recipe, and its epochs, and all that is given in epochs, times the passes of a
    step. Raises `InputError` where no method takes more passes a step than plain SGD.
    """
    methods = [config for config in configs if config.method.passes > 1]
    if not methods:
        names = ", ".join(config.recipe for config in configs)
        raise InputError(f"none of the recipes {names} takes more passes than plain SGD: leave --equal-compute out")
    dearest = max(methods, key=lambda config: config.passes)
    plain = replace(dearest, method=Sgd())
    twins = (config.recipe for config in configs if replace(plain, recipe=config.recipe) == config)
    longer = stretched(plain, math.ceil(dearest.passes))
    return [*configs, replace(longer, recipe=f"{next(twins, 'sgd')}-{dearest.method.passes:.3g}x")]


STRETCHED = ("epochs", "early_sizes", "warmup_epochs", "t_max", "milestones")
"""What `stretched` changes: the settings that are given in epochs."""


def stretched(config: Config, epochs: int) -> Config:
    """Return a config with so many epochs, and all that is given in epochs in proportion."""
    schedule, sizes = config.schedule, config.data.early_sizes
    longer = epochs / config.epochs
    if sizes:
        sizes = tuple(sizes[int(epoch / longer)] for epoch in range(round(len(sizes) * longer)))
    return replace(
        config,
        epochs=epochs,
        data=replace(config.data, early_sizes=sizes),
        schedule=replace(
            schedule,
            warmup_epochs=schedule.warmup_epochs * longer,
            t_max=schedule.t_max and round(schedule.t_max * longer),
            milestones=schedule.milestones and tuple(round(epoch * longer) for epoch in schedule.milestones),
        ),
    )


def parse_contrasts(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of recipes in `amp:sgd` and the like. `InputError`: a text is no such pair."""
    pairs = []
    for text in texts:
        recipe, colon, baseline = text.partition(":")
        if not (recipe and colon and baseline) or ":" in baseline:
            raise InputError(f"--contrasts {text}: give RECIPE:BASELINE, such as amp:sgd")
        pairs.append((recipe, baseline))
    return tuple(pairs)


def make_plan(
    configs: Sequence[Config], seeds: int, first_seed: int = 0, contrasts: Sequence[tuple[str, str]] = ()
) -> RunPlan:
    """Return the plan of all `configs` with `seeds` seeds, counted up from `first_seed`, and what is compared."""
    if seeds < 1:
        raise InputError(f"seeds is {seeds}: give at least 1")
    return RunPlan(tuple(configs), tuple(range(first_seed, first_seed + seeds)), tuple(contrasts))
