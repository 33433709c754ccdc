"""The verdicts on the claims: what decides, and that they follow from the statistics."""

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_evidence import PARTS
from fake_study import edit_evidence, small_study, write_run, write_study
from scipy import stats

from flatnext.config import recipe
from flatnext.report.claims import claims
from flatnext.study.claims import CLAIMS, Answer, answers, can_answer
from flatnext.study.plan import with_equal_compute
from flatnext.study.reading import read_study
from flatnext.study.study import Study

SPREAD = (0.0, 0.1, -0.1, 0.05, -0.02)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return read_study([write_study(tmp_path_factory.mktemp("study"), seeds=range(4), epochs=3, evidence=PARTS)])


def answer(study: Study, text: str, label: str = "amp") -> Answer:
    return next(a for a in answers(study) if a.claim.text == text and a.contrast.group.label == label)


def verdicts(study: Study) -> dict[str, str]:
    return {answer.claim.text: answer.verdict for answer in answers(study)}


def with_ece(folder: Path, shift: float, adaptive: float, spread: float = 1.0) -> str:
    """Return the verdict on calibration where ECE and its adaptive form differ by so much from those of sgd."""

    def put(parts: dict[str, Any], seed: int, ece: float = 0.0, other: float = 0.0, wide: float = 0.0) -> None:
        result = parts["calibration"]["result"]
        result["ece"] = 0.5 + ece + wide * SPREAD[seed]
        result["adaptive_ece"] = 0.5 + other + wide * SPREAD[seed]

    edit_evidence(folder, put, ("sgd",))
    edit = functools.partial(put, ece=shift, other=adaptive, wide=spread)
    return answer(edit_evidence(folder, edit), "better calibrated").verdict


def test_verdicts_follow_from_the_statistics(tmp_path: Path) -> None:
    folder = small_study(tmp_path, seeds=5, evidence=("calibration",))
    assert with_ece(folder, -0.4, -0.4) == "shown"
    assert with_ece(folder, -0.4, 0.0) == "shown"
    assert with_ece(folder, 0.4, 0.0) == "the opposite is shown"
    assert with_ece(folder, -0.4, 0.4) == "not shown"
    assert with_ece(folder, 0.01, -0.01) == "not shown"
    assert with_ece(folder, -0.4, -0.4, spread=0.0) == "no spread: no test"


def test_one_seed_is_no_statement(tmp_path: Path) -> None:
    study = read_study([small_study(tmp_path, seeds=1, evidence=PARTS)])
    found = verdicts(study)
    assert found.pop("longer training") == "by construction"
    assert set(found.values()) == {"n = 1: no statement"}


def test_two_seeds_are_no_statement(tmp_path: Path) -> None:
    folder = small_study(tmp_path, seeds=2, evidence=("calibration",))
    assert with_ece(folder, -0.4, -0.4, spread=0.001) == "n = 2: no statement"
    assert answer(read_study([folder]), "higher accuracy at each epoch").verdict == "n = 2: no statement"


def test_what_was_not_measured_is_not_answered(tmp_path: Path) -> None:
    found = verdicts(read_study([small_study(tmp_path)]))
    assert len(found) == len(CLAIMS)
    assert {text for text, verdict in found.items() if verdict == "not measured"} == {
        *("a flatter minimum", "less overfitting", "better calibrated"),
        *("higher accuracy under attack", "higher accuracy on corrupted images"),
    }
    assert found["longer training"] == "shown"


def test_one_recipe_measured_is_not_measured(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("calibration",))
    for file in folder.glob("amp/*/evidence.json"):
        file.unlink()
    found = answer(read_study([folder]), "better calibrated")
    assert (found.verdict, found.problem) == ("not measured", "not for amp")


def test_no_seed_in_common(tmp_path: Path) -> None:
    for seed, name in ((0, "sgd"), (1, "sgd"), (2, "amp"), (3, "amp")):
        write_run(tmp_path / f"{name}-{seed}", replace(recipe(name), seed=seed), epochs=2, evidence=("calibration",))
    found = verdicts(read_study([tmp_path]))
    assert set(found.values()) == {"no seed in common", "not measured", "by construction"}


def test_at_each_epoch_is_corrected_for_the_contrasts(tmp_path: Path) -> None:
    one, two, three = (
        write_study(tmp_path / f"{number}", names, range(4), epochs=1)
        for number, names in enumerate([("sgd", "amp"), ("sgd", "amp", "rmp"), ("sgd", "amp", "rmp", "sam")])
    )
    found = [at_each_epoch(folder, (0.018,)) for folder in (one, two, three)]
    assert [found.verdict for found in found] == ["shown", "shown", "not shown"]
    p = stats.ttest_1samp([0.018 + 0.1 * each for each in SPREAD[:4]], 0).pvalue
    assert 2 * p < 0.05 < 3 * p


def at_each_epoch(folder: Path, ahead: tuple[float, ...], gaps: tuple[int, ...] = ()) -> Answer:
    """Return the answer where amp is `ahead` of sgd by so many points at each epoch, give or take.

    At the epochs `gaps` nothing was evaluated.
    """
    for name in ("sgd", "amp"):
        for seed in range(4):
            file = folder / name / f"seed-{seed}" / "metrics.jsonl"
            line = json.loads(file.read_text().splitlines()[0])
            lead = ahead if name == "amp" else (0.0,) * len(ahead)
            noise = 0.001 * SPREAD[seed] if name == "amp" else 0.0
            lines = [
                line | {"epoch": e, "test_accuracy": None if e in gaps else 0.5 + 0.01 * seed + points / 100 + noise}
                for e, points in enumerate(lead, 1)
            ]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return answer(read_study([folder]), "higher accuracy at each epoch")


@pytest.mark.parametrize(
    ("ahead", "gaps", "verdict", "epochs"),
    [
        ((1.0, 2.0, 1.0), (), "shown", (3, 1.0, 3, 0)),
        ((1.0, -2.0, 1.0, 1.0), (), "shown to be false", (4, 0.75, 3, 1)),
        ((1.0, 0.0, 1.0), (), "not shown", None),
        ((1.0, -2.0, 1.0), (2,), "shown", (2, 1.0, 2, 0)),
    ],
)
def test_at_each_epoch_is_each_epoch(
    tmp_path: Path, ahead: tuple[float, ...], gaps: tuple[int, ...], verdict: str, epochs: tuple[float, ...] | None
) -> None:
    found = at_each_epoch(small_study(tmp_path, seeds=4), ahead, gaps)
    assert found.verdict == verdict
    assert found.epochs is not None
    if epochs:
        assert (found.epochs.number, found.epochs.share.mean, found.epochs.better, found.epochs.worse) == epochs


def test_what_is_not_finite_or_not_alike_is_not_compared(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("flatness", "attacks"))

    def edit(parts: dict[str, Any], seed: int) -> None:
        if seed == 1:
            parts["flatness"]["result"]["asam"][0] |= {"increase": None, "worst": None}
        for attack in parts["attacks"]["result"]["attacks"]:
            attack["count"] = 500

    study = edit_evidence(folder, edit, ("sgd",))
    flat = answer(study, "a flatter minimum")
    assert flat.verdict == "shown"
    assert flat.problem == "ASAM sharpness, radius 0.5 (not finite in sgd, seed 1)"
    assert answer(study, "higher accuracy under attack").verdict == "not comparable"
    study = edit_evidence(folder, lambda parts, seed: parts["flatness"]["result"].update(split="test"))
    assert answer(study, "a flatter minimum").verdict == "not comparable"
    assert answer(study, "less overfitting").verdict == "not measured"


@pytest.mark.parametrize(("name", "verdict"), [("amp", "by construction"), ("momentum-amp", "not comparable")])
def test_times_on_different_machines_are_not_compared_but_passes_are(tmp_path: Path, name: str, verdict: str) -> None:
    folder = small_study(tmp_path, ("sgd", name))
    for file in folder.glob(f"{name}/*/environment.json"):
        file.write_text(file.read_text().replace("AMD EPYC", "NVIDIA H200"))
    assert answer(read_study([folder]), "longer training", name).verdict == verdict


def test_training_of_the_same_passes_is_not_longer_by_construction(tmp_path: Path) -> None:
    for config in with_equal_compute([recipe("amp"), recipe("sgd")]):
        for seed in range(3):
            epochs = 4 if config.recipe == "sgd-2x" else 2
            write_run(tmp_path / f"{config.recipe}-{seed}", replace(config, seed=seed), epochs=epochs)
    study = read_study([tmp_path])
    found = {a.contrast.label: a for a in answers(study) if a.claim.text == "longer training"}
    assert {label: a.tested[0].quantity.measure.id for label, a in found.items()} == {
        "amp − sgd": "seconds_per_epoch",
        "amp − sgd-2x": "train_seconds",
    }
    (epochs,) = (a for a in answers(study) if a.claim.text.endswith("each epoch") and "2x" in a.contrast.label)
    assert (epochs.verdict, epochs.problem) == ("not comparable", "the recipes differ in their epochs")


def test_flatness_on_other_training_images_is_not_compared(tmp_path: Path) -> None:
    for seed in range(2):
        for name in ("sgd", "amp"):
            config, parts = replace(recipe(name), seed=seed), ("calibration", "flatness")
            write_run(tmp_path / f"{name}-{seed}", config, epochs=1, validation=name == "sgd", evidence=parts)
    study = read_study([tmp_path])
    assert answer(study, "a flatter minimum").verdict == "not comparable"
    assert answer(study, "better calibrated").tested  # on test images, which are the same


def test_pairs_that_were_measured_alike_are_compared_beside_others(tmp_path: Path) -> None:
    for number, name in enumerate(("sgd", "amp", "report-sgd", "report-amp")):
        for seed in range(3):
            folder = tmp_path / f"{name}-{seed}"
            write_run(folder, replace(recipe(name), seed=seed), epochs=1, evidence=("calibration",))
            if number > 1:
                content = json.loads((folder / "evidence.json").read_text())
                content["parts"]["calibration"]["settings"]["precision"] = "fp32"
                (folder / "evidence.json").write_text(json.dumps(content))
    study = read_study([tmp_path])
    for name, baseline in {"amp": "sgd", "report-amp": "report-sgd"}.items():
        found = answer(study, "better calibrated", name)
        assert found.contrast.baseline.label == baseline
        assert found.tested
        assert found.problem == ""


def test_which_quantities_decide_does_not_depend_on_the_outcome(study: Study) -> None:
    def deciding(text: str) -> list[tuple[str, float | None]]:
        return [(tested.quantity.measure.id, tested.quantity.at) for tested in answer(study, text).tested]

    assert deciding("a flatter minimum") == [("sharpness.asam", 0.5), ("rise.random", 0.1)]
    attacks = [("attack.autoattack.linf", 1.0), ("attack.pgd.linf", 8.0), ("attack.pgd.l2", 32.0)]
    assert deciding("higher accuracy under attack") == attacks
    beside = [quantity.measure.id for quantity, _ in answer(study, "higher accuracy under attack").beside]
    assert sorted(beside) == ["lost.autoattack.linf", "lost.pgd.l2", "lost.pgd.linf"]
    assert {tested.comparison.family for tested in answer(study, "a flatter minimum").tested} == {2}
    assert answer(study, "higher test accuracy").beside == ()


def test_what_was_measured_less_decides_alone(tmp_path: Path) -> None:
    folder = small_study(tmp_path, evidence=("flatness",))
    study = edit_evidence(folder, lambda parts, seed: parts["flatness"]["result"].update(asam=[]), ("sgd", "amp"))
    assert [t.quantity.measure.id for t in answer(study, "a flatter minimum").tested] == ["rise.random"]


def test_the_accuracy_says_what_the_headline_says(tmp_path: Path) -> None:
    study = read_study([write_study(tmp_path, ("sgd", "amp", "report-amp"), range(3), epochs=1)])
    for contrast in study.contrasts:
        found = answer(study, "higher test accuracy", contrast.group.label)
        assert found.tested[0].comparison == contrast.comparison


def uneven_study(folder: Path, balanced_curve: bool) -> Study:
    """Return a study of uneven classes, where amp is less accurate, and more so balanced over the classes."""
    plain = [((940 - s, 6 + s, 4), (15, 14, 1), (9, 1, 10)) for s in range(3)]
    others = [((900 - 2 * s, 30 + 2 * s, 20), (4, 25, 1), (2, 1, 17)) for s in range(3)]
    for name, matrices in (("sgd", plain), ("amp", others)):
        for seed, matrix in enumerate(matrices):
            run, config = folder / f"{name}-{seed}", replace(recipe(name), seed=seed)
            write_run(run, config, epochs=2, classes=("cat", "dog", "fox"), test_images=1000, confused=matrix)
            if balanced_curve:
                lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
                value = (0.9 if name == "amp" else 0.7) + 0.001 * seed * (name == "amp")
                lines = [line | {"validation_balanced_accuracy": value} for line in lines]
                (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_study([folder])


@pytest.mark.parametrize("balanced_curve", [False, True])
def test_claims_about_uneven_classes_are_of_the_balanced_accuracy(tmp_path: Path, balanced_curve: bool) -> None:
    study = uneven_study(tmp_path, balanced_curve)
    found = answer(study, "higher balanced test accuracy")
    (tested,) = found.tested
    (contrast,) = study.contrasts
    assert tested.quantity == study.headline
    assert tested.comparison == contrast.comparison
    assert found.verdict == "shown"
    values = [study.headline.values(label) for label in ("amp", "sgd")]
    means = [sum(by_seed.values()) / 3 for by_seed in values]
    assert tested.comparison.difference.mean == pytest.approx(means[0] - means[1])
    (measured,) = (row[1] for row in claims(study, [found])[0].rows)
    shown = [float(number) for number in re.findall(r"([0-9.]+) ±", measured)]
    assert shown == pytest.approx([100 * mean for mean in means], abs=0.01)
    epochs = answer(study, "higher accuracy at each epoch")
    assert epochs.epochs is not None
    assert epochs.epochs.balanced == balanced_curve
    assert epochs.epochs.split == ("validation" if balanced_curve else "test")
    assert epochs.epochs.better == (2 if balanced_curve else 0)
    words = "validation split (balanced over" if balanced_curve else "test set (not balanced over"
    assert f"of 2 epochs on the {words} classes)" in claims(study, [epochs])[0].rows[0][1]


def test_a_method_is_compared_with_the_recipe_that_differs_in_the_method_alone(tmp_path: Path) -> None:
    for number, name in enumerate(("sgd", "amp", "sgd", "amp", "report-amp")):
        for seed in range(3):
            config = replace(recipe(name), seed=seed)
            if number in (2, 3):
                config = replace(config, recipe=f"{name}-b", batch_size=64)
            accuracy = 0.9 + 0.01 * number + 0.003 * SPREAD[seed] * (number + 1) ** 2
            write_run(tmp_path / f"{config.recipe}-{seed}", config, epochs=2, accuracy=accuracy)
    study = read_study([tmp_path])
    found = {a.contrast.group.label: a for a in answers(study) if a.claim.text == "higher test accuracy"}
    against = {label: a.contrast.baseline.label for label, a in found.items()}
    assert against == {"amp": "sgd", "amp-b": "sgd-b", "report-amp": "sgd"}
    values = {label: list(study.accuracy.values(label).values()) for label in study.labels}
    (tested,) = found["amp-b"].tested
    assert tested.comparison.p == pytest.approx(stats.ttest_rel(values["amp-b"], values["sgd-b"]).pvalue, rel=1e-6)
    assert tested.comparison.family == 4  # with sgd-b − sgd, which is no claim
    assert answer(study, "higher accuracy at each epoch", "amp-b").epochs is not None


def test_three_recipes_are_corrected_together(tmp_path: Path) -> None:
    study = read_study([small_study(tmp_path, ("sgd", "amp", "momentum-amp"), evidence=PARTS)])
    assert len(answers(study)) == 2 * len(CLAIMS)
    assert {tested.comparison.family for a in answers(study) for tested in a.tested} >= {2, 4, 6}


def test_one_recipe_is_no_claim(tmp_path: Path) -> None:
    study = read_study([small_study(tmp_path, ("amp",))])
    assert not can_answer(study)
    assert answers(study) == ()
