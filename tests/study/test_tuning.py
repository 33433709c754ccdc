"""A search for settings: its space, its trials, and that it chooses by validation images alone."""

import json
import os
import signal
import statistics
from dataclasses import replace

import pytest
from tiny import AtStep, tiny

from flatnext.errors import InputError
from flatnext.files import write_json
from flatnext.report.tuning_page import header, tuning_page
from flatnext.runs.config_file import read_config_file
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_epochs
from flatnext.runs.records import Epoch
from flatnext.schema import dump
from flatnext.study import tuning
from flatnext.study.search_space import parse_space
from flatnext.study.trials import Trials
from flatnext.study.tuning import Search, as_file, study_command, tune
from flatnext.training import Stopped, train
from flatnext.training.evaluator import Evaluator

optuna = pytest.importorskip("optuna")
real, whole, listed = (getattr(optuna.distributions, f"{name}Distribution") for name in ("Float", "Int", "Categorical"))

MEMORY = "sqlite:///:memory:"
"""A storage that does not wait for the disk, where no other process and no later call needs it."""


def searched(*vary, trials=2, **changes):
    space = parse_space(tiny(**{"epochs": 1, **changes}), vary or ["lr=log:0.005..0.05"])
    return Search(space=space, trials=trials)


@pytest.fixture
def no_test_set(monkeypatch):
    def refuse(*_):
        raise AssertionError("the test set was evaluated")

    monkeypatch.setattr(Evaluator, "test", refuse)
    monkeypatch.setattr(Evaluator, "final", refuse)


@pytest.fixture
def value_is(monkeypatch):
    """Let the accuracy of a run be a function of its config, without training."""

    def replace_by(function):
        monkeypatch.setattr(tuning, "_accuracy", lambda config, run, watch, places: function(config))

    return replace_by


@pytest.mark.parametrize(
    ("text", "name", "distribution"),
    [
        ("lr=log:0.005..0.5", "learning_rate", real(0.005, 0.5, log=True)),
        ("learning_rate=0.1..1", "learning_rate", real(0.1, 1)),
        ("optimizer.learning_rate=0.1..1", "learning_rate", real(0.1, 1)),
        ("schedule.warmup-epochs=int:0..2", "warmup_epochs", whole(0, 2)),
        ("method.epsilon=0.1..0.2", "epsilon", real(0.1, 0.2)),
        ("weight-decay=log:1e-5..1e-2", "weight_decay", real(1e-5, 1e-2, log=True)),
        ("epsilon = 0.1..0.2", "epsilon", real(0.1, 0.2)),
        ("warmup_epochs=int:0..2", "warmup_epochs", whole(0, 2)),
        ("batch_size=log:16..128", "batch_size", whole(16, 128, log=True)),
        ("image-size=8..32", "image_size", whole(8, 32, step=4)),
        ("batch_size=16,32", "batch_size", listed([16, 32])),
        ("lr=0.1,1e-2", "learning_rate", listed([0.1, 0.01])),
        ("schedule=cosine,constant", "schedule", listed(["cosine", "constant"])),
        ("nesterov=yes,no", "nesterov", listed([True, False])),
        ("clip_norm=none,1", "clip_norm", listed([None, 1.0])),
        ("method=amp,rmp", "method", listed(["amp", "rmp"])),
    ],
)
def test_values_to_vary(text, name, distribution):
    [item] = parse_space(tiny("quick-amp", epochs=4), [text]).varied
    assert (item.name, item.distribution()) == (name, distribution)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr", "write NAME=VALUES"),
        ("lr=", "write NAME=VALUES"),
        ("epsilom=0.1..1", "no such setting"),
        ("learningrate=0.1..1", "did you mean learning_rate"),
        ("epsilon=0.1..1", "belongs to method"),
        ("data.learning_rate=0.1..1", "no such setting"),
        ("nowhere.learning_rate=0.1..1", "no such setting"),
        ("lr=1..0.1", "below the second"),
        ("lr=log:0..1", "begins above 0"),
        ("lr=lin:0.1..1", "unknown 'lin'"),
        ("lr=log:0.1", "needs a range"),
        ("lr=0.1..1..2", "give LOW..HIGH"),
        ("lr=a..b", "is no number"),
        ("lr=0.1..inf", "not finite"),
        ("lr=-1..1", "learning_rate is -1"),
        ("lr=0.1", "single value"),
        ("lr=0.1,0.1", "twice"),
        ("lr=0.1,x", "no number"),
        ("batch_size=1.5..2", "no whole number"),
        ("image_size=8..30", "multiples of 4"),
        ("schedule=cosine,cosinus", "choose one of cosine"),
        ("schedule=1..2", "it is no number"),
        ("nesterov=yes,true", "neither yes nor no"),
        ("seed=int:0..9", "cannot be compared"),
        ("validation=10,20", "cannot be compared"),
        ("blocks=1,2", "list of numbers"),
        ("label_smoothing=0..1", "--vary reaches label_smoothing 1"),
    ],
)
def test_what_cannot_be_varied(text, said):
    with pytest.raises(InputError) as error:
        parse_space(tiny(), [text])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_setting_is_varied_once():
    with pytest.raises(InputError, match="twice"):
        parse_space(tiny(), ["lr=0.1..1", "learning_rate=1,2"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"trials": 0}, "trials is 0"), ({"seeds": (1,)}, "at least 2"), ({"seeds": (-1, 0)}, "first_seed")],
)
def test_searches_that_cannot_be(changes, said):
    with pytest.raises(InputError, match=said):
        replace(searched(), **changes)


def test_it_needs_validation_images():
    with pytest.raises(InputError, match="validation is 0"):
        searched(validation=0)


def test_values_are_those_of_the_validation_images(tmp_path, no_test_set, monkeypatch):
    found = tune(searched(), tmp_path / "search")
    assert [trial.state for trial in found.trials] == ["finished"] * 2
    for trial in found.trials:
        for seed, accuracy in zip((100, 101), trial.accuracies, strict=True):
            run = tmp_path / "search" / f"trial-{trial.number:04d}" / f"seed-{seed}"
            epoch = read_epochs(run / "metrics.jsonl")[-1]
            assert (epoch.validation_accuracy, epoch.test_accuracy) == (accuracy, None)
            assert not list(run.glob("state-*"))
            assert not (run / "result.json").exists()
    monkeypatch.undo()  # the same as training says that has nothing to do with a search
    best = found.ranked[0]
    result = train(replace(found.config(), seed=101), tmp_path / "again", track=())
    assert result.last.validation.accuracy == best.accuracies[1]
    assert best.mean == max(trial.mean for trial in found.trials) == pytest.approx(sum(best.accuracies) / 2)


def test_the_same_search_goes_on(tmp_path, value_is):
    value_is(lambda config: config.optimizer.learning_rate)
    first = tune(searched(trials=3), tmp_path / "search")
    more = tune(searched(trials=5), tmp_path / "search")
    whole = tune(searched(trials=5), tmp_path / "at-once")
    assert more.trials[:3] == first.trials
    assert more.trials == whole.trials
    with pytest.raises(InputError, match="holds a search with"):
        tune(searched("lr=log:0.005..0.06"), tmp_path / "search")


def test_a_search_goes_on_when_its_folder_was_renamed_or_it_had_fewer_settings(tmp_path, value_is):
    value_is(lambda config: config.optimizer.learning_rate)
    first = tune(searched(trials=2), tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    search = searched(trials=3)
    study = Trials(search.space, search.seeds, tmp_path / "after", None).study
    known = study.user_attrs["search"]
    del known["config"]["data"]["sampler"]  # as a version without that setting has noted it
    study.set_user_attr("search", known)
    assert tune(search, tmp_path / "after").trials[:2] == first.trials


def test_a_stopped_trial_goes_on(tmp_path, no_test_set):
    search = searched(trials=1, epochs=2)
    interrupt = AtStep(6, lambda: os.kill(os.getpid(), signal.SIGINT))  # in the second epoch of the first seed
    with pytest.raises(Stopped, match="the same command goes on"):
        tune(search, tmp_path / "search", display=interrupt)
    found = tune(search, tmp_path / "search")
    assert found.trials == tune(search, tmp_path / "whole").trials
    assert len(found.trials[0].curve) == 2
    assert [path.name for path in (tmp_path / "search").glob("trial-*")] == ["trial-0000"]


def test_workers_share_the_trials(tmp_path, value_is):
    value_is(lambda config: config.optimizer.learning_rate)
    search = searched(trials=3)
    workers = [Trials(search.space, search.seeds, tmp_path, None) for _ in range(2)]
    with workers[0].take(3) as (first, folder), workers[1].take(3) as (second, other):
        assert (folder.name, other.name) == ("trial-0000", "trial-0001")
        assert first.params != second.params
        workers[1].finish(second, [0.5, 0.5])
    found = tune(search, tmp_path)  # the first has ended without a word
    assert [trial.state for trial in found.trials] == ["finished"] * 3
    assert found.trials[0].settings == first.params


def test_pruning(tmp_path, value_is):
    value_is(lambda config: config.optimizer.learning_rate)
    found = tune(searched(trials=12), tmp_path / "pruned", storage=MEMORY)
    ended = []
    for trial in found.trials:
        below = len(ended) >= 5 and trial.accuracies[0] < sorted(ended)[(len(ended) - 1) // 2]
        if trial.state == "pruned":
            assert len(trial.accuracies) == 1
            assert len(ended) >= 5
        else:
            assert not below
            ended.append(trial.accuracies[0])
    assert len(ended) < 12
    every = tune(replace(searched(trials=12), pruner="none"), tmp_path / "whole", storage=MEMORY)
    assert {trial.state for trial in every.trials} == {"finished"}


def measured(number, accuracy, balanced=None):
    """Return an epoch with this validation accuracy."""
    others = dict.fromkeys(("learning_rate", "train_loss", "train_accuracy", "train_seconds"), 0.0)
    rest = dict.fromkeys(("validation_loss", "test_loss", "test_accuracy"))
    speed = {"evaluation_seconds": 0.0, "images_per_second": 0.0}
    scores = {"validation_accuracy": accuracy, "validation_balanced_accuracy": balanced}
    return Epoch(epoch=number, step=number, **scores, **others, **rest, **speed)


@pytest.fixture
def curve_is(monkeypatch):
    """Let the accuracies of a run after its epochs be a function of its config, without training."""

    def replace_by(function, balanced=None):
        def train_epochs(config, run, *, resume, after_checkpoint, **places):
            run.mkdir(parents=True, exist_ok=True)
            write_json(run / "config.json", dump(config))
            balances = balanced(config) if balanced else [None] * config.epochs
            for number, (accuracy, balance) in enumerate(zip(function(config), balances, strict=True), start=1):
                RunFolder(run).add_epoch(measured(number, accuracy, balance))
                if after_checkpoint:
                    after_checkpoint()
            return RunFolder(run).epochs()

        monkeypatch.setattr(tuning, "train_epochs", train_epochs)

    return replace_by


def late(config):
    """Curves that cross: a high rate begins low, and is the best at the end."""
    rate, epochs = config.optimizer.learning_rate, config.epochs
    return [rate * (epoch / epochs) ** 2 + 0.1 * (1 - rate) for epoch in range(1, epochs + 1)]


def test_pruning_within_the_run_of_the_first_seed(tmp_path, curve_is):
    curve_is(late)
    search = searched("lr=0.1..0.9", trials=16, epochs=4)
    found = tune(search, tmp_path, storage=MEMORY)
    finished = []
    for trial in found.trials:
        accuracies = late(search.space.at(trial.settings))
        cut = None
        for epoch in range(1, 5):
            there = [curve[epoch - 1] for curve in finished]
            if epoch >= 3 and len(there) >= 5 and max(accuracies[:epoch]) < statistics.median(there):
                cut = epoch
                break
        runs = tmp_path / f"trial-{trial.number:04d}"
        if trial.state == "finished":
            assert cut in (None, 4)
            finished.append(accuracies)
            assert [len(read_epochs(runs / f"seed-{seed}" / "metrics.jsonl")) for seed in (100, 101)] == [4, 4]
        elif trial.accuracies:  # after the first seed
            assert cut in (None, 4)
        else:
            assert trial.curve == tuple((e, accuracies[e - 1]) for e in range(1, cut + 1))
            assert len(read_epochs(runs / "seed-100" / "metrics.jsonl")) == cut  # it is kept
            assert not (runs / "seed-101").exists()
    states = [trial.state for trial in found.trials if not trial.accuracies]
    assert states
    assert set(states) == {"pruned"}
    page = tuning_page(found, ())
    assert "pruned after epoch" in page
    assert "Epochs of seed 100, by which trials are pruned" in page


def test_an_epoch_without_a_value_ends_no_trial(tmp_path, monkeypatch):
    search = searched(epochs=3)
    trials = Trials(search.space, search.seeds, tmp_path, MEMORY)
    with trials.take(1) as (trial, _):
        monkeypatch.setattr(trial, "should_prune", lambda: True)
        epochs = [measured(1, 0.5), measured(2, None)]
        assert not trials.report_epochs(trial, epochs)  # the first one ended nothing when it was new
        assert trials.report_epochs(trial, [*epochs, measured(3, 0.5)])


def test_uneven_classes_are_tuned_and_pruned_by_the_balanced_accuracy(tmp_path, curve_is):
    """The search is the same as one of plain accuracies with these values; what the plain ones are is nothing to it."""

    def turned(config):
        return [1 - accuracy for accuracy in late(config)]

    search = searched("lr=0.1..0.9", trials=8, epochs=3)
    curve_is(late)
    plain = tune(search, tmp_path / "plain", storage=MEMORY)
    curve_is(turned, balanced=late)
    found = tune(search, tmp_path / "balanced", storage=MEMORY)
    assert found.trials == tuple(replace(trial, balanced=True) for trial in plain.trials)
    assert "pruned" in {trial.state for trial in found.trials}
    assert header(found)[-1] == "balanced mean"
    page, other = tuning_page(found, ()), tuning_page(plain, ())
    for words in ("balanced validation accuracy", "Balanced validation accuracy after the last epoch"):
        assert words in page
        assert words not in other


def test_values_that_are_balanced_and_not_are_no_search(tmp_path, curve_is):
    search = searched("lr=0.1..0.9", trials=2, epochs=2)
    curve_is(late)
    tune(search, tmp_path)
    curve_is(late, balanced=late)
    with pytest.raises(InputError, match="earlier version, whose values are not balanced"):
        tune(replace(search, trials=3), tmp_path)


@pytest.mark.parametrize("pruner", ["hyperband", "none"])
def test_other_pruners(tmp_path, curve_is, pruner):
    curve_is(late)
    found = tune(replace(searched("lr=0.1..0.9", trials=8, epochs=3), pruner=pruner), tmp_path, storage=MEMORY)
    cut = [trial for trial in found.trials if trial.state == "pruned"]
    assert bool(cut) == (pruner == "hyperband")
    assert all(len(trial.curve) == 3 for trial in found.ranked)
    with pytest.raises(InputError, match="did you mean median"):
        replace(searched(), pruner="mediam")


def test_a_trial_that_diverges_fails_alone(tmp_path):
    found = tune(searched("lr=0.02,1e30", trials=6), tmp_path / "search")
    states = {trial.settings["learning_rate"]: trial.state for trial in found.trials}
    assert states == {0.02: "finished", 1e30: "failed"}
    assert all("not finite" in trial.failure for trial in found.trials if trial.state == "failed")


def test_nothing_has_finished(tmp_path):
    found = tune(searched("lr=1e29..1e30", trials=1), tmp_path / "search")
    with pytest.raises(InputError, match=r"no trial has finished: the loss is not finite"):
        found.config()


def test_another_storage(tmp_path, value_is):
    value_is(lambda config: 0.5)
    tune(searched(trials=1), tmp_path / "search", storage=f"sqlite:///{tmp_path / 'other.db'}")
    assert (tmp_path / "other.db").is_file()
    assert not (tmp_path / "search" / "tune.db").exists()
    with pytest.raises(InputError, match="correct --storage"):
        tune(searched(trials=1), tmp_path / "search", storage="nothing://here")


@pytest.mark.parametrize(
    "config",
    [
        tiny(),
        tiny("quick-amp", epsilon=0.123456789, seed=3),
        tiny("quick").override({"method": "sam", "rho": 0.01, "nesterov": False}),
        tiny("sgd", dataset="digits", label_smoothing=0.1),
    ],
)
def test_best_as_a_config_file(tmp_path, config):
    (tmp_path / "best.json").write_text(json.dumps(as_file(config)))
    assert replace(read_config_file(tmp_path / "best.json"), seed=config.seed) == config


def test_best_as_flags_of_a_study(tmp_path):
    from flatnext.cli.main import make_parser
    from flatnext.cli.study import _configs

    config = tiny("quick-amp", epsilon=0.123456789, nesterov=False)
    words = study_command(config)[1:]
    assert _configs(make_parser(["study"]).parse_args(words)) == [config]


def test_best_as_a_recipe_of_a_study(tmp_path):
    from flatnext.cli.main import make_parser
    from flatnext.cli.study import _configs

    config = tiny("quick-amp", epsilon=0.123456789)
    (tmp_path / "best.json").write_text(json.dumps(as_file(config)))
    words = ["study", "--recipes", "quick-amp", str(tmp_path / "best.json"), "--epochs", "3"]
    plain, best = _configs(make_parser(["study"]).parse_args(words))
    assert (plain.recipe, plain.epochs) == ("quick-amp", 3)
    assert best == replace(config, recipe="quick-amp-best", epochs=3)
