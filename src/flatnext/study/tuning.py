"""A search for settings by their validation accuracy over several seeds. The test set is not looked at.

Of uneven classes that is the balanced accuracy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from flatnext.config import Config, differences, flag_of, from_partial, recipe_name
from flatnext.config.setting import Settings, require, show
from flatnext.errors import InputError, choose
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder, find_runs
from flatnext.schema import dump
from flatnext.study.search_space import Space
from flatnext.study.trials import Pruner, Trial, Trials, value_of
from flatnext.training import Stopped, train_epochs
from flatnext.training.checkpoint import remove_state
from flatnext.training.inputs import data_of
from flatnext.versions import import_extra

GOES_ON = "restore them, or begin a search with another --output"
"""What to do where the data of a search have changed."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to search, and how far: so many trials in all, each trained with all the seeds."""

    space: Space
    trials: int = 20
    seeds: tuple[int, ...] = (100, 101)
    pruner: Pruner = "median"

    def __post_init__(self) -> None:
        """Check the counts, and that images are held out to choose by."""
        require(self.pruner in get_args(Pruner), f"pruner is {self.pruner!r}: {choose(self.pruner, get_args(Pruner))}")
        require(self.trials >= 1, f"trials is {self.trials}: give at least 1")
        require(len(self.seeds) >= 2, f"seeds is {len(self.seeds)}: give at least 2, as one may be luck")
        require(self.seeds[0] >= 0, f"first_seed is {self.seeds[0]}: give at least 0")
        require(
            self.space.config.data.validation != 0,
            "validation is 0: a search chooses by validation images: hold some out with --validation N",
        )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found so far: all its trials, and the finished ones from the best on."""

    search: Search
    trials: tuple[Trial, ...]

    @property
    def ranked(self) -> tuple[Trial, ...]:
        """The finished trials, the best first; of equals the earlier."""
        return tuple(sorted((t for t in self.trials if t.state == "finished"), key=lambda t: (-t.mean, t.number)))

    @property
    def balanced(self) -> str:
        """`balanced ` where the values of the trials are balanced over the classes, else nothing."""
        return "balanced " if any(trial.balanced for trial in self.trials) else ""

    @property
    def measure(self) -> str:
        """What the values of the trials are called."""
        return f"{self.balanced}validation accuracy"

    @property
    def reason(self) -> str:
        """Why the first trial that failed did, after a colon; empty where none did."""
        return next((f": {trial.failure}" for trial in self.trials if trial.failure), "")

    def config(self) -> Config:
        """Return the config of the best trial. `InputError`: none has finished; says why one failed."""
        if not self.ranked:
            raise InputError(f"no trial has finished{self.reason}")
        return self.search.space.at(self.ranked[0].settings)


def tune(
    search: Search,
    output: Path,
    *,
    storage: str | None = None,
    data_dir: Path | str = ".data",
    device: str = "auto",
    download: bool = True,
    display: Display | None = None,
    command: str | None = None,
) -> Found:
    """Run the trials that are left, and return all. Several processes may call it with one output: they share them.

    The value of a trial is the mean validation accuracy after the last epoch over the seeds, of uneven classes the
    balanced one; a config whose loss is not finite fails its trial, not the search. Settings are proposed by Optuna's
    tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). The pruner ends a trial within the run of its
    first seed, or after a seed, by the best of what it has reported so far: the validation accuracy after each epoch of
    the first seed, and the mean after each seed. A trial that was stopped or killed goes on in the next call.

    Args:
        search: what to search.
        output: a folder for `tune.db` and the runs, `trial-NUMBER/seed-SEED`.
        storage: another database, as a URL of SQLAlchemy; the search has the name of the folder there.
        data_dir, device, download, display, command: as of `flatnext.train`.

    Raises:
        InputError: what the user can mend; a trial that it came in goes on in the next call.
        Stopped: a signal came; a checkpoint has been written.
    """
    display = display or Display()
    import_extra("optuna", "tune")  # what is not installed is said before there is a folder
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file: choose another --output")
    output.mkdir(parents=True, exist_ok=True)
    trials = Trials(search.space, search.seeds, output, storage, search.pruner)
    places = {"data_dir": data_dir, "device": device, "download": download, "display": display, "command": command}
    while True:
        with trials.take(search.trials) as taken:
            if taken is None:
                break
            _run(search, trials, *taken, places)
    return Found(search=search, trials=trials.read())


class Pruned(Exception):  # noqa: N818  # no error
    """The trial is not worth more epochs; the message says after which."""


def _run(search: Search, trials: Trials, trial: Any, folder: Path, places: Mapping[str, Any]) -> None:
    """Train a trial's config with each seed, and note what came of it."""
    say = places["display"].say
    say(f"{folder.name}: {described(trial.params)}")
    accuracies: list[float] = []
    for seed in search.seeds:
        run = folder / f"seed-{seed}"
        watch = functools.partial(_watch, trials, trial, RunFolder(run)) if seed == search.seeds[0] else None
        try:
            config = replace(search.space.at(trial.params), seed=seed, test_curve=False)
        except InputError as error:  # settings that exclude each other within the ranges
            return trials.fail(trial, str(error))
        try:
            accuracies.append(_accuracy(config, run, watch, places))
        except Pruned as reason:
            remove_state(run)
            trials.prune(trial)
            return say(f"{folder.name}: pruned after {reason}")
        except Stopped as error:
            raise Stopped(f"stopped in {folder.name}: the same command goes on") from error
        except InputError as error:
            if not RunFolder(run).failed():
                raise
            say(f"{folder.name} failed: {error}")
            return trials.fail(trial, str(error))
        if trials.report_seed(trial, accuracies) and seed != search.seeds[-1]:
            trials.prune(trial)
            return say(f"{folder.name}: pruned after seed {seed}, with {accuracies[-1]:.2%}")
    say(f"{folder.name}: {', '.join(format(accuracy, '.2%') for accuracy in accuracies)} on validation images")
    return trials.finish(trial, accuracies)


def _watch(trials: Trials, trial: Any, run: RunFolder) -> None:
    """Report the epochs of a run; raise `Pruned` where it is to end before its last one."""
    epochs = run.epochs()
    if trials.report_epochs(trial, epochs) and epochs[-1].epoch < run.config().epochs:
        raise Pruned(f"epoch {epochs[-1].epoch}, with {value_of(epochs[-1]):.2%}")


def _accuracy(config: Config, run: Path, watch: Callable[[], object] | None, places: Mapping[str, Any]) -> float:
    """Return the value of a run's last epoch, training what of it is left; `watch` may end it."""
    folder = RunFolder(run)
    epochs = folder.epochs() if folder.started() and folder.config() == config else ()
    if epochs and watch:
        watch()  # a trial that goes on has reported nothing yet
    if len(epochs) < config.epochs:
        known = data_of(find_runs(run.parent.parent), config.data, GOES_ON)
        epochs = train_epochs(config, run, resume=folder.is_run(), after_checkpoint=watch, known=known, **places)
    accuracy = value_of(epochs[-1])
    if accuracy is None:
        raise InputError("no images are held out for validation: hold some out with --validation N")
    remove_state(run)  # three times the weights on the disk, for each run of a search
    return accuracy


def described(settings: Mapping[str, Any]) -> str:
    """Return settings as text: `epsilon 0.05, learning_rate 0.1`."""
    return ", ".join(f"{name} {show(value)}" for name, value in settings.items())


def as_file(config: Config) -> dict[str, Any]:
    """Return a config as the content of a config file: its recipe, and what differs from it, by section."""
    wanted = differences(config) | {"dataset": config.data.dataset}
    if "model" in wanted:  # the name of a model stands for its parts
        wanted = {name: value for name, value in wanted.items() if name != "model"} | vars(config.model)
    content: dict[str, Any] = {"recipe": recipe_name(config)}
    for item in fields(config):
        part = getattr(config, item.name)
        if isinstance(part, Settings):
            section = {name: value for name, value in vars(part).items() if name in wanted}
            content |= {item.name: dump(section)} if section else {}
        elif item.name in wanted:
            content[item.name] = dump(part)
    return content if replace(from_partial(content), seed=config.seed) == config else config.to_json()


def study_command(config: Config) -> list[str]:
    """Return the words of a study of a config, whose settings are flags there: `["flatnext", "study", ...]`."""
    words = ["flatnext", "study", "--recipes", recipe_name(config)]
    for name, value in ({"dataset": config.data.dataset} | differences(config)).items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            words += [flag, show(value, exact=True)]
    return words
