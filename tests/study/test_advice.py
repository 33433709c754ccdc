"""Which recipe a study says to take, and what it warns of."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_study import small_study, write_json, write_run, write_study
from sklearn.metrics import balanced_accuracy_score, f1_score

from flatnext.config import recipe
from flatnext.report.accuracy import cost
from flatnext.runs.class_balance import balanced_accuracy, f1_scores, is_uneven, majority, tells_apart
from flatnext.runs.records import StudyPlan
from flatnext.runs.scores import Confusion
from flatnext.study.advice import advice, summary
from flatnext.study.failures import failure, warnings
from flatnext.study.final_run import final_run
from flatnext.study.reading import read_study
from flatnext.study.study import ReadPlan, Study

CLASSES = ("cat", "dog", "fox")

GOOD = ((58, 1, 1), (1, 58, 1), (1, 1, 58))
ONE_CLASS = ((60, 0, 0), (57, 1, 2), (58, 1, 1))
GUESSING = ((20, 20, 20), (21, 19, 20), (20, 19, 21))


def with_matrices(folder: Path, **matrices: Sequence[Sequence[int]]) -> Study:
    """Write three runs of each recipe with a confusion matrix and read them; `_` in a name stands for `-`."""
    for name, matrix in matrices.items():
        config = recipe(name.replace("_", "-"))
        for seed in range(3):
            options = {"epochs": 2, "classes": CLASSES, "test_images": sum(map(sum, matrix)), "confused": matrix}
            write_run(folder / f"{config.recipe}-{seed}", replace(config, seed=seed), **options)
    return read_study([folder])


def with_accuracies(folder: Path, **accuracies: Sequence[float]) -> Study:
    for name, values in accuracies.items():
        for seed, value in enumerate(values):
            write_run(folder / f"{name}-{seed}", replace(recipe(name), seed=seed), epochs=2, accuracy=value)
    return read_study([folder])


def test_the_most_accurate_is_to_be_taken_with_its_interval_and_cost(tmp_path: Path) -> None:
    study = read_study([write_study(tmp_path, epochs=4)])
    text = advice(study)
    low, high = (100 * end for end in (lambda e: (e.low, e.high))(study.accuracy.estimate("amp")))
    assert text.startswith("Take amp, the highest mean test accuracy: ")
    assert f"95 % interval {low:.2f} to {high:.2f}, 5 seeds" in text
    assert text.endswith(" of training a run, 1.9 times that of sgd.")
    assert summary(study) == (text, *(contrast.sentence for contrast in study.contrasts))


def test_a_cheaper_recipe_is_to_be_taken_unless_it_is_shown_to_be_worse(tmp_path: Path) -> None:
    study = with_accuracies(tmp_path, sgd=(0.90, 0.92, 0.91), amp=(0.91, 0.915, 0.92))
    text = advice(study)
    assert text.startswith("Take sgd, as no recipe is shown to be better and amp costs more: 91.00 % (95 %")
    assert "of training a run, 0.51 times that of amp. The highest mean test accuracy is that of amp, 91.51 % (" in text
    assert "No difference shown between amp and sgd" in summary(study)[1]


def test_the_cheapest_is_not_taken_where_a_dearer_one_is_shown_to_be_better(tmp_path: Path) -> None:
    """Of sgd and amp no difference is shown, but sam, of the same cost as amp, is better than sgd in every seed."""
    with_accuracies(tmp_path, sgd=(0.90, 0.905, 0.91), amp=(0.935, 0.915, 0.94), sam=(0.9200, 0.9252, 0.9299))
    seconds = json.loads((tmp_path / "amp-0/result.json").read_text())["train_seconds"]
    for file in tmp_path.glob("sam-*/result.json"):
        write_json(file, json.loads(file.read_text()) | {"train_seconds": seconds})
    study = read_study([tmp_path])
    verdicts = {contrast.group.label: contrast.comparison.verdict for contrast in study.contrasts}
    assert verdicts == {"amp": "open", "sam": "higher"}
    assert advice(study).startswith("Take amp, the highest mean test accuracy")


def test_what_is_shown_to_be_worse_is_not_taken_for_seeds_that_the_other_lacks(tmp_path: Path) -> None:
    study = with_accuracies(tmp_path, sgd=(0.900, 0.901, 0.902, 0.960), amp=(0.912, 0.9131, 0.914))
    assert study.contrasts[0].comparison.verdict == "higher"
    assert study.headline.estimate("sgd").mean > study.headline.estimate("amp").mean
    assert advice(study).startswith(
        "Take amp, the highest mean test accuracy of the recipes that are not shown to be worse than another: 91.3"
    )


def test_a_cheaper_recipe_is_to_be_taken_also_where_no_contrast_compares_it(tmp_path: Path) -> None:
    """Rmp is as good as sam and costs half; both are better than sgd, and a study compares them with that alone."""
    with_accuracies(tmp_path, sgd=(0.90, 0.901, 0.902), rmp=(0.93, 0.9315, 0.9332), sam=(0.9312, 0.9305, 0.934))
    for file in tmp_path.glob("sam-*/result.json"):
        content = json.loads(file.read_text())
        write_json(file, content | {"train_seconds": 2 * content["train_seconds"]})
    study = read_study([tmp_path])
    assert {contrast.recipes for contrast in study.contrasts} == {("rmp", "sgd"), ("sam", "sgd")}
    assert advice(study).startswith("Take rmp, as no recipe is shown to be better and sam costs more: 93.1")
    with_accuracies(tmp_path / "worse", rmp=(0.91, 0.9105, 0.9108), sam=(0.9312, 0.932, 0.9318))
    for file in tmp_path.glob("worse/sam-*/result.json"):
        content = json.loads(file.read_text())
        write_json(file, content | {"train_seconds": 2 * content["train_seconds"]})
    worse = read_study([tmp_path / "worse"])
    plan = StudyPlan(recipes=("rmp", "sam", "adversarial"), seeds=(0, 1, 2), contrasts=(("sam", "adversarial"),))
    worse = replace(worse, plans=(ReadPlan(plan, worse.groups),))
    assert not worse.contrasts
    assert advice(worse).startswith("Take sam, the highest mean test accuracy")


def test_of_the_same_cost_the_most_accurate_is_to_be_taken(tmp_path: Path) -> None:
    study = with_accuracies(tmp_path, **{"sgd": (0.90, 0.92, 0.91), "momentum-amp": (0.91, 0.915, 0.92)})
    assert study.contrasts[0].comparison.verdict == "open"
    assert advice(study).startswith("Take momentum-amp, the highest mean test accuracy")


def test_costs_on_different_machines_are_passes(tmp_path: Path) -> None:
    with_accuracies(tmp_path, sgd=(0.90, 0.92, 0.91), amp=(0.91, 0.915, 0.92))
    for file in tmp_path.glob("amp-*/environment.json"):
        file.write_text(file.read_text().replace("AMD EPYC", "NVIDIA H200"))
    study = read_study([tmp_path])
    assert "of training a run, 0.5 times the passes of amp." in advice(study)
    assert "times as long" not in str(cost(study))
    assert "times as long" in str(cost(with_accuracies(tmp_path / "alike", sgd=(0.90,), amp=(0.91,))))


def test_with_few_seeds_it_may_be_chance(tmp_path: Path) -> None:
    study = with_accuracies(tmp_path, sgd=(0.90, 0.92), amp=(0.91, 0.93))
    assert "With fewer than 3 seeds this may be chance: run at least 3." in advice(study)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (ONE_CLASS, "amp collapsed in 3 of 3 runs: it predicts “cat” for 175 of 180 test images (seed 0). Try"),
        (
            GUESSING,
            "amp collapsed in 3 of 3 runs: 33.33 % accuracy is within chance of always answering “cat” (33.33 %)",
        ),
    ],
)
def test_a_collapsed_recipe_is_warned_of_and_not_taken(
    tmp_path: Path, matrix: Sequence[Sequence[int]], text: str
) -> None:
    study = with_matrices(tmp_path, sgd=GOOD, amp=matrix)
    (warning,) = warnings(study)
    assert warning.startswith(text)
    assert "Try a smaller radius (--epsilon 0.03 instead of 0.3), a longer warm-up" in warning
    assert "a lower rate (--lr 0.01 instead of 0.1)" in warning
    assert advice(study).startswith("Take sgd, the only recipe that trained: ")
    assert warning in summary(study)


def test_a_recipe_whose_loss_still_fell_is_undertrained(tmp_path: Path) -> None:
    with_matrices(tmp_path, sgd=GOOD, amp=ONE_CLASS)
    for file in tmp_path.glob("amp-*/metrics.jsonl"):
        lines = zip(file.read_text().splitlines(), (1.08, 0.95), strict=True)
        lines = [json.loads(line) | {"train_loss": loss} for line, loss in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (warning,) = warnings(read_study([tmp_path]))
    assert warning.startswith("amp is undertrained in 3 of 3 runs: it predicts “cat” for 175 of 180 test images, while")
    assert (
        "its training loss, 0.95, still fell (seed 0). Try more epochs (--epochs, now 2), a smaller radius" in warning
    )


def test_plain_sgd_has_no_radius_to_make_smaller(tmp_path: Path) -> None:
    study = with_matrices(tmp_path, sgd=ONE_CLASS, sam=ONE_CLASS)
    plain, sam = warnings(study)
    assert "radius" not in plain
    assert "a smaller radius (--rho 0.005 instead of 0.05)" in sam
    assert advice(study) == "Take none of these recipes: none has learned to tell the classes apart."


def test_a_network_that_is_right_about_uneven_classes_has_not_collapsed(tmp_path: Path) -> None:
    study = with_matrices(tmp_path, sgd=((930, 3, 2), (4, 40, 1), (3, 1, 16)))
    assert [failure(run) for run in study.runs] == [None] * 3


def test_a_network_that_finds_rare_classes_has_not_collapsed(tmp_path: Path) -> None:
    # 88 % accuracy, below the 95 % of always answering the first class, and each class is found.
    study = with_matrices(tmp_path, sgd=((840, 60, 50), (2, 26, 2), (1, 1, 18)))
    assert [failure(run) for run in study.runs] == [None] * 3
    half = with_matrices(tmp_path / "half", sgd=((950, 0, 0), (20, 20, 0), (6, 0, 4)))  # 976 answers of one class
    assert [failure(run) for run in half.runs] == [None] * 3
    matrix = Confusion.of([[500, 300, 150], [16, 9, 5], [11, 6, 3]])  # as by chance
    assert not tells_apart(matrix)
    assert not tells_apart(Confusion.of([[99, 0], [1, 0]]))


def test_uneven_classes_are_compared_by_the_balanced_accuracy(tmp_path: Path) -> None:
    study = with_matrices(
        tmp_path, sgd=((940, 6, 4), (15, 14, 1), (9, 1, 10)), amp=((900, 30, 20), (4, 25, 1), (2, 1, 17))
    )
    assert study.uneven
    assert study.headline.measure.id == "balanced_accuracy"
    (contrast,) = study.contrasts
    difference = (900 / 950 + 25 / 30 + 17 / 20 - 940 / 950 - 14 / 30 - 10 / 20) / 3
    assert contrast.comparison.difference.mean == pytest.approx(difference)
    assert "points of balanced accuracy above sgd" in contrast.sentence
    assert advice(study).startswith("Take sgd, as no recipe is shown to be better and amp costs more")  # no spread
    assert "The highest mean balanced test accuracy is that of amp, " in advice(study)


def test_a_diverged_recipe_is_warned_of(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    for seed in range(3):
        file = study / f"amp/seed-{seed}/result.json"
        content = json.loads(file.read_text())
        content["last"]["test"]["loss"] = None
        write_json(file, content)
    (warning,) = warnings(read_study([study]))
    assert warning.startswith("amp diverged in 3 of 3 runs: its outputs or its loss are not finite (seed 0). Try")
    lines = (study / "amp/seed-0/metrics.jsonl").read_text().splitlines()
    (study / "amp/seed-0/metrics.jsonl").write_text(
        lines[0] + "\n" + json.dumps(json.loads(lines[1]) | {"train_loss": 9})
    )
    content["last"]["test"]["loss"] = 1.0
    for seed in range(3):
        write_json(study / f"amp/seed-{seed}/result.json", content)
    (warning,) = warnings(read_study([study]))
    assert "diverged in 1 of 3 runs: its training loss, 9, is above that of guessing, 0.693 (seed 0)" in warning


def test_a_recipe_of_which_a_run_failed_is_not_advised(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=range(3), epochs=8)
    assert advice(read_study([folder])).startswith("Take amp, ")
    write_run(folder / "amp/seed-3", replace(recipe("amp"), seed=3), finished=False, error="the loss is nan")
    assert advice(read_study([folder])).startswith("Take sgd, ")
    assert final_run(folder).config.recipe == "sgd"


def test_unfinished_and_failed_runs_are_warned_of(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    write_run(folder / "amp/seed-3", replace(recipe("amp"), seed=3), finished=False, error="the loss is nan")
    write_run(folder / "sgd/seed-3", replace(recipe("sgd"), seed=3), finished=False)
    failed, unfinished = warnings(read_study([folder]))
    assert failed.startswith(
        "amp failed: amp/seed-3 (failed after 4 of 8 epochs: the loss is nan). Try a smaller radius"
    )
    assert unfinished.startswith("1 run is unfinished: sgd/seed-3 (unfinished: 4 of 8 epochs). The command that began")


def test_what_is_said_of_the_classes_is_scikit_learns() -> None:
    rows = Confusion.of([[30, 5, 0], [2, 6, 2], [1, 0, 4]])
    pairs = [(i, j) for i, row in enumerate(rows) for j, count in enumerate(row) for _ in range(count)]
    assert balanced_accuracy(rows) == pytest.approx(balanced_accuracy_score(*zip(*pairs, strict=True)))
    assert f1_scores(rows) == pytest.approx(f1_score(*zip(*pairs, strict=True), average=None))
    assert f1_scores(Confusion.of([[3, 1], [0, 0]])) == [pytest.approx(6 / 7), None]
    assert majority(rows) == (0, 0.7)
    assert is_uneven(rows)
    assert not is_uneven(Confusion.of([[10, 5], [2, 8]]))


def test_a_comparison_that_was_not_planned_is_corrected_with_those_that_were(tmp_path: Path) -> None:
    with_accuracies(tmp_path, sgd=(0.90, 0.901, 0.902), rmp=(0.93, 0.9315, 0.9332), sam=(0.9318, 0.9347, 0.9357))
    for file in tmp_path.glob("sam-*/result.json"):
        content = json.loads(file.read_text())
        write_json(file, content | {"train_seconds": 2 * content["train_seconds"]})
    study = read_study([tmp_path])
    comparison = study.headline.compare("sam", "rmp")
    assert comparison is not None
    assert comparison.p is not None
    assert 0.05 / 3 < comparison.p < 0.05
    assert advice(study).startswith("Take rmp, as no recipe is shown to be better and sam costs more")
