"""The trials of a search in Optuna's storage: who has which, and going on with those that a worker has left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flatnext.config import Config
from flatnext.errors import InputError
from flatnext.runs.comparison import differences
from flatnext.runs.lock import SECONDS, HeldError, lock, wait_for_lock
from flatnext.runs.records import Epoch
from flatnext.schema import dump
from flatnext.seeds import mix
from flatnext.study.search_space import Space
from flatnext.versions import import_extra

DATABASE = "tune.db"
"""The storage in the folder of a search, where no other is named."""

STARTUP = 5
"""Trials that finish before the median prunes any."""

WARMUP = 2 / 3
"""The share of the epochs in which the median prunes nothing: rates and methods differ in how fast they begin."""

State = Literal["finished", "pruned", "failed", "running"]
Pruner = Literal["median", "hyperband", "none"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial: its settings, and the validation accuracy of each seed that was trained to the end, a fraction.

    `curve` has the epochs of the first seed with their validation accuracies. `balanced`: these are balanced over the
    classes, which are uneven.
    """

    number: int
    state: State
    settings: dict[str, Any]
    accuracies: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    failure: str = ""
    balanced: bool = False

    @property
    def mean(self) -> float:
        """The mean over the seeds that were trained, of which there is at least one."""
        return sum(self.accuracies) / len(self.accuracies)


class Trials:
    """The trials of one search. Several processes may have one each, on the same storage and output folder.

    A trial reports the validation accuracy (`value_of`) after each epoch of its first seed, and then after each seed
    the mean over the seeds so far; by these its `pruner` may end it.
    """

    def __init__(
        self, space: Space, seeds: Sequence[int], output: Path, storage: str | None, pruner: Pruner = "median"
    ) -> None:
        self.optuna = import_extra("optuna", "tune")
        self.optuna.logging.set_verbosity(self.optuna.logging.WARNING)
        self.space, self.output, self.own, self.first_seed = space, output, storage is None, seeds[0]
        self.epochs, self.pruner = space.most_epochs, pruner
        url = storage or f"sqlite:///{(output / DATABASE).resolve()}"
        with wait_for_lock(output):
            self.study = self._open(url, output.resolve().name if storage else None)
            self._check({"config": space.config.to_json(), "vary": dump(space.varied), "seeds": list(seeds)})

    def _open(self, url: str, name: str | None) -> Any:
        """Open the search of a name; None: the only one in the storage of the folder, whatever that is called now."""
        options = {"connect_args": {"timeout": SECONDS}} if url.startswith("sqlite") else {}
        try:
            storage = self.optuna.storages.RDBStorage(url, engine_kwargs=options)
            if name is None:
                name = next(iter(self.optuna.get_all_study_names(storage)), "search")
            return self.optuna.create_study(
                storage=storage, study_name=name, direction="maximize", pruner=self._made(), load_if_exists=True
            )
        except Exception as error:  # of SQLAlchemy, of a driver, or of one that is not installed
            words = " ".join(str(error).split())[:200]
            raise InputError(
                f"cannot open the storage {url.partition('://')[0]} ({words}): correct --storage"
            ) from error

    def _made(self) -> Any:
        """Return the pruner, as Optuna has it."""
        pruners = self.optuna.pruners
        if self.pruner == "median":
            return pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=math.ceil(WARMUP * self.epochs))
        if self.pruner == "hyperband":
            return pruners.HyperbandPruner(max_resource=self.epochs)
        return pruners.NopPruner()

    def _check(self, wanted: dict[str, Any]) -> None:
        """Note what the search is; `InputError` where the storage has another one of this name."""
        there = self.study.user_attrs.get("search")
        if there is None:
            self.study.set_user_attr("search", wanted)
        elif different := differences(_present(there), wanted):
            raise InputError(
                f"{self.output} holds a search with {different[0]}: give the same settings, or another --output"
            )

    @contextmanager
    def take(self, count: int) -> Iterator[tuple[Any, Path] | None]:
        """Give the next trial, of `count` in all, with its folder, held within the block; None: all are taken.

        A trial whose worker has ended comes first, with its settings and its folder. It counts once.
        """
        with ExitStack() as held:
            with wait_for_lock(self.output):
                self._put_back()
                known = self._latest()
                waiting = any(trial.state == self.optuna.trial.TrialState.WAITING for trial in known.values())
                if len(known) >= count and not waiting:
                    yield None
                    return
                # By the number of trials: neither a restart nor another worker draws the same numbers again.
                sampler = self.optuna.samplers.TPESampler(seed=mix(self.first_seed, len(known)) % 2**32)
                self.study.sampler = sampler
                trial = self.study.ask({item.name: item.distribution() for item in self.space.varied})
                folder = self.output / _folder(trial)
                folder.mkdir(exist_ok=True)
                held.enter_context(lock(folder))
            yield trial, folder

    def _put_back(self) -> None:
        """Let the trials that ended with their worker be given again, with their settings and folder."""
        states = self.optuna.trial.TrialState
        again = {_folder(trial) for trial in self.study.get_trials(states=(states.WAITING,))}
        for trial in self.study.get_trials(states=(states.RUNNING,)):
            folder = self.output / _folder(trial)
            if not folder.is_dir() and not self.own:
                continue  # of another machine, with an output folder of its own
            folder.mkdir(exist_ok=True)
            try:
                with lock(folder):
                    if folder.name not in again:
                        self.study.enqueue_trial(trial.params, user_attrs={"folder": folder.name})
                    self.study.tell(trial.number, state=states.FAIL)
            except HeldError:
                continue

    def _latest(self) -> dict[str, Any]:
        """Return Optuna's trials by their folders; of one that was given again, the last."""
        return {_folder(trial): trial for trial in self.study.get_trials(deepcopy=False)}

    def read(self) -> tuple[Trial, ...]:
        """Return the trials in the order of their numbers."""
        states = self.optuna.trial.TrialState
        names: dict[Any, State] = {states.COMPLETE: "finished", states.PRUNED: "pruned", states.FAIL: "failed"}
        return tuple(
            Trial(
                number=int(folder.rpartition("-")[2]),
                state=names.get(trial.state, "running"),
                settings={
                    item.name: trial.params[item.name] for item in self.space.varied if item.name in trial.params
                },
                accuracies=tuple(trial.user_attrs.get("accuracies", ())),
                curve=tuple(sorted(item for item in trial.intermediate_values.items() if item[0] <= self.epochs)),
                failure=trial.user_attrs.get("failure", ""),
                balanced=trial.user_attrs.get("balanced", False),
            )
            for folder, trial in sorted(self._latest().items())
        )

    def finish(self, trial: Any, accuracies: Sequence[float]) -> None:
        """Note the accuracy of each seed of a trial that has come to its end."""
        trial.set_user_attr("accuracies", list(accuracies))
        self.study.tell(trial, sum(accuracies) / len(accuracies))

    def report_epochs(self, trial: Any, epochs: Sequence[Epoch]) -> bool:
        """Note the epochs of the trial's first seed so far; return whether it is to end after the last of them."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = [epoch for epoch in epochs if epoch.epoch not in known]
        end = False
        for epoch in new:  # of those before the last one it was decided when they were new
            end = False
            if (value := value_of(epoch)) is not None:
                self._check_measure(trial, epoch)
                trial.report(value, step=epoch.epoch)
                end = bool(trial.should_prune())
        return end

    def _check_measure(self, trial: Any, epoch: Epoch) -> None:
        """Note whether the trial's values are balanced; `InputError` where those of others are not alike."""
        balanced = epoch.validation_balanced_accuracy is not None
        if trial.user_attrs.get("balanced") != balanced:
            trial.set_user_attr("balanced", balanced)
        measured = [other for other in self.study.get_trials(deepcopy=False) if other.intermediate_values]
        if any(other.user_attrs.get("balanced", False) != balanced for other in measured):
            raise InputError(
                f"{self.output} holds trials of an earlier version, whose values are not balanced over the classes as "
                "those of new ones are: begin a search with another --output"
            )

    def report_seed(self, trial: Any, accuracies: Sequence[float]) -> bool:
        """Note the accuracies of the trial's seeds so far; return whether it is to end."""
        trial.set_user_attr("accuracies", list(accuracies))
        trial.report(sum(accuracies) / len(accuracies), step=self.epochs + len(accuracies))
        return bool(trial.should_prune())

    def prune(self, trial: Any) -> None:
        """Note that a trial has ended early."""
        self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)

    def fail(self, trial: Any, reason: str) -> None:
        """Note that a trial has no value, and why."""
        trial.set_user_attr("failure", reason)
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)


def value_of(epoch: Epoch) -> float | None:
    """Return the validation accuracy by which trials are judged: of uneven classes the balanced one. None: none."""
    balanced = epoch.validation_balanced_accuracy
    return epoch.validation_accuracy if balanced is None else balanced


def _folder(trial: Any) -> str:
    return str(trial.user_attrs.get("folder", f"trial-{trial.number:04d}"))


def _present(search: dict[str, Any]) -> dict[str, Any]:
    """Return what a search is, as it would be noted now: an earlier version may have had fewer settings."""
    try:
        return search | {"config": Config.from_json(search["config"]).to_json()}
    except (InputError, KeyError):
        return search
