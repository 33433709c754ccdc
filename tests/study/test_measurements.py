"""The table of measurements, and the quantities that are summed up from it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_evidence import PARTS
from fake_study import edit_evidence, small_study, write_run, write_study
from scipy import stats

from flatnext.config import recipe
from flatnext.study.measures import measure
from flatnext.study.quantities import Quantity
from flatnext.study.reading import read_study
from flatnext.study.study import Study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), seeds=(0, 1, 2, 3), epochs=3, evidence=PARTS)


@pytest.fixture(scope="module")
def study(folder: Path) -> Study:
    return read_study([folder])


def parts(folder: Path, name: str, seed: int) -> dict[str, Any]:
    content = json.loads((folder / name / f"seed-{seed}" / "evidence.json").read_text())
    return {part: held["result"] for part, held in content["parts"].items()}


def one(study: Study, identifier: str, at: float | None = None, split: str = "*") -> Quantity:
    (quantity,) = (q for q in study.select(identifier, split=split) if q.at == at)
    return quantity


def test_no_two_rows_are_of_the_same_thing(study: Study) -> None:
    places = [(r.recipe, r.seed, r.split, r.measure, r.at) for r in study.measurements]
    assert len(set(places)) == len(places)


def test_all_that_was_measured_is_in_the_table(study: Study) -> None:
    identifiers = {row.measure for row in study.measurements}
    assert identifiers >= {"accuracy", "loss", "accuracy.best", "loss.gap", "seconds_per_epoch", "recall.cat"}
    assert identifiers >= {"sharpness.amp", "sharpness.sam", "sharpness.asam", "distance.amp", "rise.random"}
    assert identifiers >= {"hessian.eigenvalue", "hessian.trace", "temperature", "ece.scaled", "adaptive_ece"}
    assert identifiers >= {"corruptions.mean", "corruption.snow", "attack.none", "attack.pgd.l2", "lost.pgd.l2"}
    assert {row.split for row in study.measurements} == {"test", "validation", "train", "test set cifar10.1_v6"}
    assert all(measure(identifier).label for identifier in identifiers)


def test_rows_hold_what_the_files_hold(folder: Path, study: Study) -> None:
    for seed in range(4):
        part = parts(folder, "amp", seed)
        generated = part["corruptions"]["generated"]
        assert one(study, "ece").values("amp")[seed] == part["calibration"]["ece"]
        snow = generated["accuracy"]["snow"]
        assert one(study, "corruption.snow").values("amp")[seed] == pytest.approx(np.mean(snow))
        assert one(study, "corruption.snow", at=3).values("amp")[seed] == snow[2]
        third = np.mean([values[2] for values in generated["accuracy"].values()])
        assert one(study, "corruptions.mean", at=3).values("amp")[seed] == pytest.approx(third)
        assert one(study, "corruptions.mean", at=0).values("amp")[seed] == generated["clean"]
        attack = next(a for a in part["attacks"]["attacks"] if (a["attack"], a["norm"]) == ("pgd", "l2"))
        lost = attack["clean_accuracy"] - attack["robust_accuracy"]
        assert one(study, "lost.pgd.l2", at=32).values("amp")[seed] == pytest.approx(lost)
        centre = part["flatness"]["random"]["centre"]
        loss = one(study, "loss", split="test").values("amp")[seed]
        assert one(study, "loss.gap").values("amp")[seed] == pytest.approx(loss - centre)
        confusion = json.loads((folder / f"amp/seed-{seed}/result.json").read_text())["last"]["test"]["confusion"]
        assert one(study, "recall.cat").values("amp")[seed] == pytest.approx(confusion[3][3] / sum(confusion[3]))


def test_differences_are_those_of_a_paired_t_test(folder: Path, study: Study) -> None:
    sgd, amp = ([parts(folder, name, seed)["calibration"]["ece"] for seed in range(4)] for name in ("sgd", "amp"))
    ece = one(study, "ece")
    comparison, estimate = ece.compare("amp", "sgd"), ece.estimate("amp")
    assert comparison is not None
    assert comparison.p == pytest.approx(stats.ttest_rel(amp, sgd).pvalue, rel=1e-6)
    assert estimate is not None
    assert (estimate.mean, estimate.sd) == pytest.approx((np.mean(amp), np.std(amp, ddof=1)))


@pytest.mark.parametrize(
    ("identifier", "split", "at", "label"),
    [
        ("accuracy", "test", None, "test accuracy"),
        ("accuracy", "test set new", None, "test set new accuracy"),
        ("sharpness.asam", "train", 0.5, "ASAM sharpness, radius 0.5"),
        ("attack.pgd.linf", "test", 8.0, "pgd, L∞ 8/255"),
        ("lost.pgd.l2", "test", 32.0, "accuracy lost to pgd, L2 32/255"),
        ("corruption.gaussian_noise", "cifar10-c", 3, "gaussian noise, severity 3 (cifar10-c)"),
        ("recall.a{b.c}", "test", None, "a{b.c}"),
    ],
)
def test_labels(identifier: str, split: str, at: float | None, label: str) -> None:
    assert measure(identifier).text(split, at) == label


def test_the_folders_of_the_recipes_give_what_the_study_gives(folder: Path, study: Study) -> None:
    assert read_study([folder / "sgd", folder / "amp"]).measurements == study.measurements


def test_only_the_same_settings_are_compared(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("calibration", "attacks"))

    def fewer(parts: dict[str, Any], seed: int) -> None:
        for attack in parts["attacks"]["result"]["attacks"]:
            attack["count"] = 500
        parts["calibration"]["settings"]["precision"] = "bf16"
        parts["calibration"]["settings"]["batch_size"] = 64

    study = edit_evidence(folder, fewer)
    pgd, ece = one(study, "attack.pgd.linf", at=8), one(study, "ece")
    assert pgd.problem() == "measured with different settings: images 1000 or 500"
    assert pgd.compare("amp", "sgd") is None
    assert pgd.estimate("amp") is not None
    assert ece.problem() == "measured with different settings: precision none or bf16"


def test_settings_that_change_no_figure_do_not_count(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("calibration",))
    study = edit_evidence(
        folder, lambda parts, seed: parts["calibration"]["settings"].update(batch_size=64, device="cuda")
    )
    assert not any(quantity.problem() for quantity in study.quantities)


def test_what_is_not_finite_is_not_averaged(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("flatness",))

    def diverge(parts: dict[str, Any], seed: int) -> None:
        if seed == 1:
            parts["flatness"]["result"]["asam"][0] |= {"increase": None, "worst": None}

    sharpness = one(edit_evidence(folder, diverge, ("sgd",)), "sharpness.asam", at=0.5)
    assert sharpness.problem() == "not finite in sgd, seed 1"
    assert (sharpness.estimate("sgd"), len(sharpness.values("amp"))) == (None, 3)


def test_flatness_on_test_images_is_no_gap(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("flatness",))
    study = edit_evidence(folder, lambda parts, seed: parts["flatness"]["result"].update(split="test"), ("sgd", "amp"))
    assert study.select("loss.gap") == []
    assert {quantity.split for quantity in study.select("hessian.*", "sharpness.*")} == {"test"}


def test_flatness_depends_on_the_images_that_were_trained_on(tmp_path: Path) -> None:
    for name in ("sgd", "amp"):
        config = replace(recipe(name), seed=0)
        write_run(tmp_path / name, config, epochs=1, validation=name == "sgd", evidence=("calibration", "flatness"))
    study = read_study([tmp_path])
    assert one(study, "hessian.trace").problem() == "measured with different settings: validation 5000 or 0"
    assert one(study, "ece").problem() == ""


def test_flatness_is_of_the_images_that_it_was_measured_on(tmp_path: Path) -> None:
    """Which another division than that of the training may have given."""
    folder = small_study(tmp_path, evidence=("calibration", "flatness"))

    def divided(parts: dict[str, Any], seed: int) -> None:
        parts["flatness"]["settings"]["split_seed"] = parts["calibration"]["settings"]["split_seed"] = 1

    study = edit_evidence(folder, divided)
    for name in ("hessian.trace", "ece.scaled", "temperature"):
        assert one(study, name).problem() == "measured with different settings: split_seed 0 or 1"
    assert one(study, "ece").problem() == ""


def test_without_metrics_there_is_no_time_of_an_epoch(tmp_path: Path) -> None:
    folder = small_study(tmp_path, ("sgd",), seeds=1)
    (folder / "sgd/seed-0/metrics.jsonl").write_text("")
    identifiers = {row.measure for row in read_study([folder]).measurements}
    assert "seconds_per_epoch" not in identifiers
    assert "train_seconds" in identifiers


def test_another_test_set_has_a_name_of_its_own_and_is_compared_with_the_same_images_alone(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "study")
    digests = {"sgd": "a", "amp": "a"}

    def read() -> Study:
        for file in copy.glob("*/seed-*/evidence.json"):
            content = json.loads(file.read_text())
            part = content["parts"]["test_sets"]
            (scores,) = part["result"]["sets"].values()
            part["result"]["sets"] = {"test": scores}
            part["settings"]["test_set_images"] = [digests[file.parent.parent.name]]
            file.write_text(json.dumps(content))
        return read_study([copy])

    study = read()
    assert study.accuracy.values("amp") == read_study([folder]).accuracy.values("amp")
    others = one(study, "accuracy", split="test set test")
    assert others.compare("amp", "sgd") is not None
    digests["amp"] = "b"
    assert one(read(), "accuracy", split="test set test").compare("amp", "sgd") is None


@pytest.mark.parametrize(
    ("identifier", "bounds"),
    [
        ("recall.lost luggage", (0, 1)),
        ("corruption.snow", (0, 1)),
        ("accuracy", (0, 1)),
        ("lost.pgd.linf", (-1, 1)),
        ("corruptions.lost", (-1, 1)),
        ("loss", (-np.inf, np.inf)),
    ],
)
def test_between_what_a_measure_lies(identifier: str, bounds: tuple[float, float]) -> None:
    assert measure(identifier).bounds == bounds
