"""A search for settings by their validation accuracy over several seeds. The test set is not looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from flatnext.config import Config, differences, from_partial, recipe_name
from flatnext.config.setting import Settings, require, show
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.schema import dump
from flatnext.study.search_space import Space, flag_of, settings_of
from flatnext.study.trials import Trial, Trials
from flatnext.training import Stopped, train_epochs
from flatnext.training.checkpoint import remove_states
from flatnext.versions import import_extra


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to search, and how far: so many trials in all, each trained with all the seeds."""

    space: Space
    trials: int = 20
    seeds: tuple[int, ...] = (100, 101)
    prune: bool = True

    def __post_init__(self) -> None:
        """Check the counts, and that images are held out to choose by."""
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

    def config(self) -> Config:
        """Return the config of the best trial. `InputError`: none has finished; says why one failed."""
        if not self.ranked:
            reason = next((f": {trial.failure}" for trial in self.trials if trial.failure), "")
            raise InputError(f"no trial has finished{reason}")
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

    The value of a trial is the mean validation accuracy after the last epoch over the seeds; a config whose loss is not
    finite fails its trial, not the search. Settings are proposed by Optuna's tree-structured Parzen estimator (Bergstra
    et al., NeurIPS 2011). With `prune`, a trial ends after a seed if its mean so far is below the median of the trials
    that had finished (Optuna's `MedianPruner`). A trial that was stopped or killed goes on in the next call.

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
    trials = Trials(search.space, search.seeds, output, storage)
    places = {"data_dir": data_dir, "device": device, "download": download, "display": display, "command": command}
    while True:
        with trials.take(search.trials) as taken:
            if taken is None:
                break
            _run(search, trials, *taken, places)
    return Found(search=search, trials=trials.read())


def _run(search: Search, trials: Trials, trial: Any, folder: Path, places: Mapping[str, Any]) -> None:
    """Train a trial's config with each seed, and note what came of it."""
    say = places["display"].say
    say(f"{folder.name}: {described(trial.params)}")
    accuracies: list[float] = []
    for seed in search.seeds:
        run = folder / f"seed-{seed}"
        try:
            config = replace(search.space.at(trial.params), seed=seed, test_curve=False)
        except InputError as error:  # settings that exclude each other within the ranges
            return trials.fail(trial, str(error))
        try:
            accuracies.append(_accuracy(config, run, places))
        except Stopped as error:
            raise Stopped(f"stopped in {folder.name}: the same command goes on") from error
        except InputError as error:
            if not RunFolder(run).failed():
                raise
            say(f"{folder.name} failed: {error}")
            return trials.fail(trial, str(error))
        if search.prune and seed != search.seeds[-1] and trials.prune(trial, accuracies):
            return say(f"{folder.name}: {accuracies[-1]:.2%}, below the median: it ends here")
    say(f"{folder.name}: {', '.join(format(accuracy, '.2%') for accuracy in accuracies)} on validation images")
    return trials.finish(trial, accuracies)


def _accuracy(config: Config, run: Path, places: Mapping[str, Any]) -> float:
    """Return the validation accuracy of a run's last epoch, training what of it is left."""
    folder = RunFolder(run)
    epochs = folder.epochs() if folder.started() and folder.config() == config else ()
    if len(epochs) < config.epochs:
        epochs = train_epochs(config, run, resume=folder.is_run(), **places)
    accuracy = epochs[-1].validation_accuracy
    if accuracy is None:
        raise InputError("no images are held out for validation: hold some out with --validation N")
    remove_states(run)  # three times the weights on the disk, for each run of a search
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
    known, words = settings_of(config), ["flatnext", "study", "--recipes", recipe_name(config)]
    for name, value in ({"dataset": config.data.dataset} | differences(config)).items():
        flag = flag_of(name, known[name][1] if name in known else None)
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", repr(value) if isinstance(value, float) else show(value)]
    return words
