"""What was measured after training: reading it, the words that follow from it, and the report's section."""

import copy
import functools
import hashlib
import html
import json
import math
import operator
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_evidence import PARTS
from fake_study import write_json, write_run, write_study
from scipy import stats
from test_report import Page, report

from flatnext.config import recipe
from flatnext.config.method import Sam
from flatnext.errors import InputError
from flatnext.report import evidence_figures, evidence_robustness, figures
from flatnext.report.blocks import Panel, Text
from flatnext.report.content import content
from flatnext.report.evidence import evidence, title
from flatnext.report.evidence_claims import verdict
from flatnext.report.evidence_words import explained
from flatnext.report.markdown import escape
from flatnext.report.numbers import decimal, decimals
from flatnext.study import measures
from flatnext.study.claims import CLAIMS, Answer, answers
from flatnext.study.rows import rows
from flatnext.study.table import Study, read_study

ALL = ("calibration", "errors", "flatness", "corruptions", "attacks")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), seeds=(0, 1, 2, 3), epochs=3, evidence=PARTS)


@pytest.fixture(scope="module")
def pair(study: Path) -> tuple[Page, str]:
    return report(study)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def panel(name: str, alt: str, *_: object, **__: object) -> Panel:
        return Panel(name, alt, f'<svg role="img"><title>{html.escape(alt)}</title></svg>')

    monkeypatch.setattr(figures, "panel", panel)


def small(root: Path, recipes: tuple[str, ...] = ("sgd", "amp"), seeds: int = 3, **options: Any) -> Path:
    return write_study(root, recipes, range(seeds), epochs=2, classes=("cat", "dog"), test_images=200, **options)


def change(folder: Path, edit: Callable[[dict[str, Any], Any], None], recipes: tuple[str, ...] = ("amp",)) -> Study:
    """Edit the parts of the evidence of each run of some recipes, and read the study again."""
    for name in recipes:
        for file in sorted((folder / name).glob("*/evidence.json")):
            whole = json.loads(file.read_text())
            edit(whole["parts"], json.loads((file.parent / "config.json").read_text())["seed"])
            write_json(file, whole)
    return read_study([folder])


def answer(study: Study, text: str, label: str = "amp") -> Answer:
    return next(a for a in answers(study) if a.claim.text == text and a.contrast.group.label == label)


# Reading


def test_what_was_measured_is_read(study: Path) -> None:
    run = read_study([study]).groups[1].runs[2]
    parts = json.loads((study / "amp/seed-2/evidence.json").read_text())["parts"]
    held = run.evidence
    assert held is not None
    assert held.calibration is not None
    assert held.flatness is not None
    assert held.corruptions is not None
    assert held.corruptions.result.generated is not None
    assert held.calibration.result.ece == parts["calibration"]["result"]["ece"]
    assert held.calibration.made.device == "cpu"
    assert [s.increase for s in held.flatness.result.amp] == [s["increase"] for s in parts["flatness"]["result"]["amp"]]
    generated = parts["corruptions"]["result"]["generated"]
    assert held.corruptions.result.generated.by_corruption == pytest.approx(generated["by_corruption"])
    assert list(held.corruptions.result.generated.by_severity.values()) == pytest.approx(generated["by_severity"])
    assert held.corruptions.result.generated.mean == pytest.approx(generated["mean"])


def test_parts_may_be_missing_and_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    folder = small(tmp_path, ("sgd",), seeds=1, evidence=("calibration",))
    file = folder / "sgd/seed-0/evidence.json"
    whole = json.loads(file.read_text())
    whole["parts"] |= {"flatness": None, "novel": {"x": 1}}
    whole["parts"]["calibration"]["result"]["novel"] = [1, 2]
    write_json(file, whole | {"novel": 5})
    held = read_study([folder]).runs[0].evidence
    assert held is not None
    assert held.calibration is not None
    assert (held.flatness, held.attacks, held.test_sets) == (None, None, None)


def test_without_the_file_there_is_no_evidence(tmp_path: Path) -> None:
    assert read_study([small(tmp_path, ("sgd",), seeds=1)]).runs[0].evidence is None


def test_evidence_of_other_weights_is_left_out(tmp_path: Path) -> None:
    folder = small(tmp_path, seeds=2, evidence=("calibration",))
    weights = folder / "amp/seed-0/last.safetensors"
    weights.write_bytes(b"weights")
    run = read_study([folder]).groups[1].runs[0]
    assert (run.evidence, run.stale_evidence) == (None, True)
    file = folder / "amp/seed-0/evidence.json"
    whole = json.loads(file.read_text())
    write_json(file, whole | {"sha256": hashlib.sha256(b"weights").hexdigest()})
    run = read_study([folder]).groups[1].runs[0]
    assert (run.evidence is None, run.stale_evidence) == (False, False)


def places(content: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where the values of a JSON content stand; of a list's, the first item's."""
    items = list(content.items()) if isinstance(content, dict) else list(enumerate(content[:1]))
    found = [place] if place else []
    for key, value in items:
        inner = (*place, key)
        found += places(value, inner) if isinstance(value, (dict, list)) else [inner]
    return found


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("part", PARTS)
def test_any_damage_is_an_error_that_names_file_and_part(tmp_path: Path, part: str) -> None:
    folder = small(tmp_path, ("sgd",), seeds=1, evidence=(part,))
    file = folder / "sgd/seed-0/evidence.json"
    good = json.loads(file.read_text())
    refused = []
    for *parents, key in places(good["parts"]):
        for value in (None, -1, 10**400, "é") if part != "flatness" else (None, "é"):
            damaged = copy.deepcopy(good)
            functools.reduce(operator.getitem, parents, damaged["parts"])[key] = value
            write_json(file, damaged)
            try:
                content(read_study([folder]))
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 15
    assert all(str(file) in text and part in text and "\n" not in text for text in refused)
    assert all("flatnext evidence" in text for text in refused)


@pytest.mark.parametrize(
    ("part", "place", "value", "words"),
    [
        ("calibration", ("reliability", "counts"), [1], "calibration.reliability: edges"),
        ("calibration", ("accuracy",), 1.5, "calibration.result: accuracy holds 1.5"),
        ("calibration", ("scaled", "temperature"), math.inf, "calibration.result.scaled.temperature is inf"),
        ("flatness", ("random", "mean"), [0.1], "flatness.result.random: radii"),
        ("flatness", ("surface", "losses"), [[1]], "flatness.result.surface: losses is not 11 by 11"),
        ("flatness", ("amp",), [{"radius": 1}], r"flatness.result.amp\[0\].ball is missing"),
        ("corruptions", ("generated", "severities"), [1], "corruptions.result.generated: accuracy.gaussian_noise"),
        ("attacks", ("attacks",), None, "attacks.result.attacks is None: give a list"),
        ("errors", ("confusion",), [[1]], "errors: confusion is not 2 by 2"),
        ("test_sets", ("sets", "cifar10.1_v6", "accuracy"), True, "test_sets.result.sets.cifar10.1_v6.accuracy is True"),
    ],
)
def test_values_that_cannot_be_are_named(
    tmp_path: Path, part: str, place: tuple[str, ...], value: object, words: str
) -> None:
    folder = small(tmp_path, ("sgd",), seeds=1, evidence=(part,))
    *parents, key = place

    def damage(parts: dict[str, Any], seed: int) -> None:
        functools.reduce(operator.getitem, parents, parts[part]["result"])[key] = value

    with pytest.raises(InputError, match=words):
        change(folder, damage, ("sgd",))


@pytest.mark.parametrize("text", ["[]", "5", "{", '{"parts": []}', '{"checkpoint": "x", "parts": {}}'])
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, text: str) -> None:
    folder = small(tmp_path, ("sgd",), seeds=1)
    (folder / "sgd/seed-0/evidence.json").write_text(text)
    with pytest.raises(InputError, match=r"evidence\.json"):
        read_study([folder])


def test_classes_and_images_are_checked(tmp_path: Path) -> None:
    folder = small(tmp_path, ("sgd",), seeds=1, evidence=("errors",))
    file = folder / "sgd/seed-0/evidence.json"
    good = json.loads(file.read_text())
    write_json(file, good | {"classes": ["dog", "cat"]})
    with pytest.raises(InputError, match="classes are not those of the run"):
        read_study([folder])
    for changes in ({"label": 2}, {"predicted": -1}, {"cam": "<script>"}, {"png": "AAAA"}):
        damaged = copy.deepcopy(good)
        damaged["parts"]["errors"]["result"]["mistakes"][0] |= changes
        write_json(file, damaged)
        with pytest.raises(InputError, match="errors.*mistake"):
            read_study([folder])


# Statistics


def test_differences_are_those_of_a_paired_t_test(study: Path) -> None:
    table = read_study([study])
    (row,) = (row for row in rows(table, measures.calibration) if row.measure.kind == "ece")
    sgd, amp = (
        [
            json.loads((study / f"{name}/seed-{seed}/evidence.json").read_text())["parts"]["calibration"]["result"]
            for seed in range(4)
        ]
        for name in ("sgd", "amp")
    )
    ours, theirs = [x["ece"] for x in amp], [x["ece"] for x in sgd]
    found = row.compare(table, table.contrasts[0])
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-6)
    estimate = row.estimate(1)
    assert estimate is not None
    assert (estimate.mean, estimate.sd) == pytest.approx((np.mean(ours), np.std(ours, ddof=1)))


def test_all_that_was_measured_has_a_row(study: Path) -> None:
    table = read_study([study])
    names = {row.measure.kind for family in (measures.training, measures.flatness) for row in rows(table, family)}
    assert names >= {"accuracy", "loss", "seconds", "gap", "sharpness.amp", "sharpness.sam", "sharpness.asam"}
    assert names >= {"rise.random", "rise.gradient", "eigenvalue", "trace"}
    assert {row.measure.kind for row in rows(table, measures.calibration)} >= {"temperature", "adaptive_ece", "nll"}
    assert len(rows(table, measures.by_corruption)) == 5
    assert [row.measure.name for row in rows(table, measures.test_sets)] == ["cifar10.1_v6"]
    assert "pgd, L∞ 8/255" in [row.measure.name for row in rows(table, measures.attacks)]


def test_what_an_attack_takes_is_clean_minus_robust_accuracy(study: Path) -> None:
    found = {row.measure.name: row.values[1] for row in rows(read_study([study]), measures.attacks)}
    for name in ("pgd, L∞ 1/255", "pgd, L2 32/255"):
        clean, robust, lost = (found[each] for each in ("no attack, 1,000 images", name, f"accuracy lost to {name}"))
        assert lost == pytest.approx({seed: clean[seed] - robust[seed] for seed in range(4)})


def test_how_far_amp_went_is_said_below_its_sharpness(study: Path) -> None:
    names = [row.measure.name for row in rows(read_study([study]), measures.flatness)]
    place = names.index("AMP sharpness, radius 0.5")
    assert names[place + 1] == "AMP's step at radius 0.5: distance gone"


@pytest.mark.usefixtures("undrawn")
def test_the_recipes_folders_give_what_the_study_gives(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=PARTS)
    apart = read_study([folder / "sgd", folder / "amp"])
    assert {run.name for run in apart.runs} == {"seed-0", "seed-1", "seed-2"}
    assert evidence(apart) == evidence(read_study([folder]))


@pytest.mark.usefixtures("undrawn")
def test_a_temperature_at_the_end_of_its_range_is_no_fit(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("calibration", "flatness"))

    def edit(parts: dict[str, Any], seed: int) -> None:
        if seed == 1:
            parts["calibration"]["result"]["scaled"]["temperature"] = 0.01
            parts["flatness"]["result"]["eigenvalues"] |= {"converged": False, "residuals": [1.5, 2.0]}

    change(folder, edit)
    page, _ = report(folder)
    assert "do not fix the temperature of amp/seed-1: its figures after scaling mean nothing." in page.text
    assert "had not converged in amp/seed-1: residual 1.50 at most, as far off it may be." in page.text


def test_the_gap_is_test_loss_minus_the_loss_at_the_weights(study: Path) -> None:
    table = read_study([study])
    gap = next(row for row in rows(table, measures.flatness) if row.measure.kind == "gap")
    run = table.groups[0].runs[1]
    assert run.evidence is not None
    assert run.evidence.flatness is not None
    assert run.evidence.flatness.result.random is not None
    centre, loss = run.evidence.flatness.result.random.centre, run.result.last.test.loss
    assert centre is not None
    assert loss is not None
    assert gap.values[0][1] == pytest.approx(loss - centre)


@pytest.mark.usefixtures("undrawn")
def test_only_the_same_settings_are_compared(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("calibration", "attacks"))

    def fewer(parts: dict[str, Any], seed: int) -> None:
        for attack in parts["attacks"]["result"]["attacks"]:
            attack["count"] = 500
        parts["calibration"]["settings"]["precision"] = "bf16"
        parts["calibration"]["settings"]["batch_size"] = 64

    table = change(folder, fewer, ("amp",))
    pgd = next(row for row in rows(table, measures.attacks) if row.measure.name == "pgd, L∞ 8/255")
    assert pgd.problem() == "measured with different settings: images 1000 or 500"
    assert pgd.compare(table, table.contrasts[0]) is None
    assert answer(table, "higher accuracy under attack").verdict == "not comparable"
    ece = next(row for row in rows(table, measures.calibration) if row.measure.kind == "ece")
    assert ece.problem() == "measured with different settings: precision none or bf16"
    page, _ = report(folder)
    assert "Not compared: fgsm, L∞ 1/255 (measured with different settings: images 1000 or 500)" in page.text


@pytest.mark.usefixtures("undrawn")
def test_pairs_that_were_measured_alike_are_compared_beside_others(tmp_path: Path) -> None:
    for number, name in enumerate(("sgd", "amp", "report-sgd", "report-amp")):
        for seed in range(3):
            write_run(
                tmp_path / f"{name}-{seed}", replace(recipe(name), seed=seed), epochs=1, evidence=("calibration",)
            )
            if number > 1:
                file = tmp_path / f"{name}-{seed}/evidence.json"
                content = json.loads(file.read_text())
                content["parts"]["calibration"]["settings"]["precision"] = "fp32"
                file.write_text(json.dumps(content))
    table = read_study([tmp_path])
    against = {"amp": "sgd", "report-amp": "report-sgd"}
    for name, baseline in against.items():
        found = answer(table, "better calibrated", name)
        assert found.contrast.baseline.label == baseline
        assert found.tested
        assert found.problem == ""
    ece = next(row for row in rows(table, measures.calibration) if row.measure.kind == "ece")
    assert all(ece.estimate(number) is not None for number in range(4))
    page, _ = report(tmp_path)
    assert "Not compared for some recipes: ECE (measured with different settings: precision fp32 or none)" in page.text


def test_settings_that_change_no_figure_do_not_count(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("calibration",))
    table = change(folder, lambda parts, seed: parts["calibration"]["settings"].update(batch_size=64, device="cuda"))
    assert not any(row.problem() for row in rows(table, measures.calibration))


def test_what_is_not_finite_is_not_averaged(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("flatness",))

    def diverge(parts: dict[str, Any], seed: int) -> None:
        if seed == 1:
            parts["flatness"]["result"]["asam"][0] |= {"increase": None, "worst": None}
            parts["flatness"]["result"]["surface"]["losses"][0][0] = None
            parts["flatness"]["result"]["random"]["mean"][-1] = None
            parts["flatness"]["result"]["random"]["losses"][0][-1] = None

    table = change(folder, diverge, ("sgd",))
    row = next(row for row in rows(table, measures.flatness) if row.measure.name == "ASAM sharpness, radius 0.5")
    assert row.problem() == "not finite in sgd/seed-1"
    assert (row.estimate(0), len(row.values[1])) == (None, 3)
    flat = answer(table, "a flatter minimum")
    assert flat.verdict == "shown"
    assert flat.problem == "ASAM sharpness, radius 0.5 (not finite in sgd/seed-1)"
    evidence_figures.figures(table)  # matplotlib warns of what it cannot draw, and a warning fails the tests


# Verdicts

SPREAD = (0.0, 0.1, -0.1, 0.05, -0.02)


def with_ece(folder: Path, shift: float, adaptive: float, spread: float = 1.0) -> str:
    """Return the verdict on calibration where ECE and its adaptive form differ by so much from those of sgd."""

    def put(parts: dict[str, Any], seed: int, ece: float = 0.0, other: float = 0.0, wide: float = 0.0) -> None:
        result = parts["calibration"]["result"]
        result["ece"] = 0.5 + ece + wide * SPREAD[seed]
        result["adaptive_ece"] = 0.5 + other + wide * SPREAD[seed]

    change(folder, put, ("sgd",))
    edit = functools.partial(put, ece=shift, other=adaptive, wide=spread)
    return answer(change(folder, edit), "better calibrated").verdict


def test_the_words_follow_from_the_statistics(tmp_path: Path) -> None:
    folder = small(tmp_path, seeds=5, evidence=("calibration",))
    assert with_ece(folder, -0.4, -0.4) == "shown"
    assert with_ece(folder, -0.4, 0.0) == "shown"
    assert with_ece(folder, 0.4, 0.0) == "the opposite is shown"
    assert with_ece(folder, -0.4, 0.4) == "not shown"
    assert with_ece(folder, 0.01, -0.01) == "not shown"
    assert with_ece(folder, -0.4, -0.4, spread=0.0) == "no spread: no test"


def test_one_seed_is_no_statement(tmp_path: Path) -> None:
    table = read_study([small(tmp_path, seeds=1, evidence=PARTS)])
    assert {found.verdict for found in answers(table)} == {"n = 1: no statement"}


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    table = read_study([small(tmp_path)])
    found = {a.claim.text: a.verdict for a in answers(table)}
    assert len(found) == len(CLAIMS)
    assert {text for text, word in found.items() if word == "not measured"} == {
        *("a flatter minimum", "less overfitting", "better calibrated"),
        *("higher accuracy under attack", "higher accuracy on corrupted images"),
    }
    assert found["longer training"] == "shown"


def test_one_recipe_measured_is_not_measured(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("calibration",))
    for file in folder.glob("amp/*/evidence.json"):
        file.unlink()
    found = answer(read_study([folder]), "better calibrated")
    assert (found.verdict, found.problem) == ("not measured", "not for amp")


def test_no_seed_in_common_is_said(tmp_path: Path) -> None:
    for seed, name in ((0, "sgd"), (1, "sgd"), (2, "amp"), (3, "amp")):
        write_run(tmp_path / f"{name}-{seed}", replace(recipe(name), seed=seed), epochs=2, evidence=("calibration",))
    found = {a.claim.text: a.verdict for a in answers(read_study([tmp_path]))}
    assert set(found.values()) == {"no seed in common", "not measured"}


def epochs_verdict(folder: Path, ahead: tuple[float, ...]) -> Answer:
    """Return the answer where amp is `ahead` of sgd by so many points at each epoch, give or take."""
    for name in ("sgd", "amp"):
        for seed in range(4):
            file = folder / name / f"seed-{seed}" / "metrics.jsonl"
            line = json.loads(file.read_text().splitlines()[0])
            lead = ahead if name == "amp" else (0.0,) * len(ahead)
            noise = 0.001 * SPREAD[seed] if name == "amp" else 0.0
            lines = [
                line | {"epoch": e, "test_accuracy": 0.5 + 0.01 * seed + points / 100 + noise}
                for e, points in enumerate(lead, 1)
            ]
            file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return answer(read_study([folder]), "higher accuracy at each epoch")


def test_at_each_epoch_is_each_epoch(tmp_path: Path) -> None:
    folder = small(tmp_path, seeds=4)
    found = epochs_verdict(folder, (1.0, 2.0, 1.0))
    assert found.verdict == "shown"
    assert found.epochs is not None
    assert (found.epochs.share.mean, found.epochs.better, found.epochs.worse) == (1.0, 3, 0)
    found = epochs_verdict(folder, (1.0, -2.0, 1.0, 1.0))
    assert found.verdict == "shown to be false"
    assert found.epochs is not None
    assert (found.epochs.share.mean, found.epochs.better, found.epochs.worse) == (0.75, 3, 1)
    assert epochs_verdict(folder, (1.0, 0.0, 1.0)).verdict == "not shown"


def test_flatness_on_images_drawn_from_other_training_images_is_not_compared(tmp_path: Path) -> None:
    for seed in range(2):
        for name in ("sgd", "amp"):
            config, parts = replace(recipe(name), seed=seed), ("calibration", "flatness")
            write_run(tmp_path / f"{name}-{seed}", config, epochs=1, validation=name == "sgd", evidence=parts)
    table = read_study([tmp_path])
    found = answer(table, "a flatter minimum")
    assert found.verdict == "not comparable"
    assert "measured with different settings: validation 5000 or 0" in found.problem
    assert answer(table, "better calibrated").tested  # on test images, which are the same


@pytest.mark.usefixtures("undrawn")
def test_a_method_is_compared_with_the_recipe_that_differs_in_the_method_alone(tmp_path: Path) -> None:
    for number, name in enumerate(("sgd", "amp", "sgd", "amp", "report-amp")):
        for seed in range(3):
            config = replace(recipe(name), seed=seed)
            if number in (2, 3):
                config = replace(config, recipe=f"{name}-b", batch_size=64)
            accuracy = 0.9 + 0.01 * number + 0.003 * SPREAD[seed] * (number + 1) ** 2
            write_run(tmp_path / f"{config.recipe}-{seed}", config, epochs=2, accuracy=accuracy)
    table = read_study([tmp_path])
    found = {a.contrast.group.label: a for a in answers(table) if a.claim.text == "higher test accuracy"}
    against = {label: a.contrast.baseline.label for label, a in found.items()}
    assert against == {"amp": "sgd", "amp-b": "sgd-b", "report-amp": "sgd"}
    values = {group.label: list(group.accuracy().values()) for group in table.groups}
    (tested,) = found["amp-b"].tested
    assert tested.comparison.p == pytest.approx(stats.ttest_rel(values["amp-b"], values["sgd-b"]).pvalue, rel=1e-6)
    assert tested.comparison.family == 3
    assert answer(table, "higher accuracy at each epoch", "amp-b").epochs is not None
    claims = [row[0] for row in report(tmp_path)[0].table("claim")]
    assert {"amp against sgd: lower test loss", "amp-b against sgd-b: lower test loss"} <= set(claims)
    assert "report-amp against sgd: lower test loss (the recipes differ in more than the method)" in claims


def test_where_training_left_nothing_no_command_is_named(tmp_path: Path) -> None:
    found = answer(read_study([small(tmp_path, seeds=1)]), "longer training")
    assert verdict(replace(found, verdict="not measured")) == "not measured"


def test_a_less_accurate_recipe_gets_no_praise(tmp_path: Path) -> None:
    for seed in range(4):
        for name, level in (("sgd", 0.9), ("amp", 0.8)):
            accuracy = level + (0.01 * SPREAD[seed] if name == "amp" else 0.0)
            config = replace(recipe(name), seed=seed)
            write_run(tmp_path / f"{name}-{seed}", config, epochs=1, accuracy=accuracy)
    texts = [block.text for block in explained(answers(read_study([tmp_path]))) if isinstance(block, Text)]
    assert texts[-1].startswith("amp is less accurate here.")
    assert "uncertain by ± 1.0 points" in texts[1]


def test_the_accuracy_says_what_the_headline_says(tmp_path: Path) -> None:
    table = read_study([write_study(tmp_path, ("sgd", "amp", "report-amp"), range(3), epochs=1)])
    for contrast in table.contrasts:
        found = answer(table, "higher test accuracy", contrast.group.label)
        assert found.tested[0].comparison == contrast.comparison


def test_times_on_different_machines_are_not_compared(tmp_path: Path) -> None:
    folder = small(tmp_path)
    for file in folder.glob("amp/*/environment.json"):
        text = file.read_text().replace("AMD EPYC", "NVIDIA H200")
        file.write_text(text)
    assert answer(read_study([folder]), "longer training").verdict == "not comparable"


def test_which_measures_answer_does_not_depend_on_the_outcome(study: Path) -> None:
    table = read_study([study])
    flat = [tested.row.measure.name for tested in answer(table, "a flatter minimum").tested]
    assert flat == ["ASAM sharpness, radius 0.5", "rise along random directions, radius 0.1"]
    attacked = [tested.row.measure.name for tested in answer(table, "higher accuracy under attack").tested]
    assert attacked == ["autoattack-quick, L∞ 1/255", "pgd, L∞ 8/255", "pgd, L2 32/255"]
    assert {tested.comparison.family for tested in answer(table, "a flatter minimum").tested} == {2}


# The page


def test_each_claim_has_its_verdict(study: Path, pair: tuple[Page, str]) -> None:
    page, markdown = pair
    table = page.table("claim")
    found = answers(read_study([study]))
    assert table[0] == ["claim", "measured", "verdict"]
    assert [row[2] for row in table[1:]] == [each.verdict for each in found]
    assert page.text.index("What AMP changed") < page.text.index("Test accuracy")
    assert "## What AMP changed" in markdown
    rows_ = {row[0]: row[1] for row in table[1:]}
    assert rows_["higher test accuracy"].startswith("test accuracy (10,000 images) ")
    assert rows_["a flatter minimum (the course report, AMP's authors)"].startswith("2 measures: 2 for it")
    assert (
        "ASAM sharpness, radius 0.5 (2,000 images): " in rows_["a flatter minimum (the course report, AMP's authors)"]
    )
    gap = rows_["less overfitting (the course report, AMP's authors)"]
    assert "(2,000 training images, its test loss on all test images)" in gap
    attacked = rows_['higher accuracy under attack (the course report, as "more robust")']
    assert re.search(r"deciding nothing: .*accuracy lost to pgd, L2 32/255 \S+ points \(95 % interval .*, p ", attacked)
    assert "with 1,000 images an accuracy of 50 % is uncertain by ± 3 points" in page.text
    assert "(each tested by itself), lower at 0 (corrected for 3 epochs)" in rows_["higher accuracy at each epoch"]
    assert "Claims made of AMP, tested on amp." in page.text
    assert "The standard error of the trace, from 10 random vectors, is 30.0 (median over runs)." in page.text
    assert "over 15 bins" in page.text
    assert not any(answer.claim.kinds == ("accuracy",) and answer.beside for answer in found)
    assert "times as long" in rows_["longer training"]


def test_the_tables_hold_what_was_measured(study: Path, pair: tuple[Page, str]) -> None:
    page, markdown = pair
    firsts = {row[0] for table in page.tables for row in table}
    assert firsts >= {"AMP sharpness, radius 1", "ECE after scaling", "temperature", "snow", "severity 5"}
    assert firsts >= {"cifar10.1_v6", "no attack, 1,000 images", "largest Hessian eigenvalue"}
    attack = page.table("attack")
    assert attack[0][-1] == "seconds"
    assert next(row for row in attack if row[0] == "pgd, L∞ 8/255")[-1] == "20.0"
    assert "All 16 sanity checks of the attacks passed, over 8 runs." in page.text
    ece = next(row for table in page.tables for row in table if row[0] == "ECE")
    values = [
        json.loads((study / f"amp/seed-{seed}/evidence.json").read_text())["parts"]["calibration"]["result"]["ece"]
        for seed in range(4)
    ]
    assert ece[2] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    for table in page.tables:
        for row in table:
            assert f"| {' | '.join(map(escape, row))} |" in markdown


def test_figures_and_images_are_in_both_forms(study: Path, pair: tuple[Page, str]) -> None:
    page, markdown = pair
    names = {"flat-random.svg", "flat-gradient.svg", "surface-0.svg", "surface-1.svg", "reliability-1.svg"}
    names |= {"corruptions-0.svg", "attacks-0.svg"}
    assert names <= {file.name for file in (study / "figures").iterdir()}
    shown = set(re.findall(r"\]\(figures/([^)]*)\)", markdown))
    assert shown == {file.name for file in (study / "figures").iterdir()}
    labels = [attributes.get("alt") or "" for tag, attributes in page.tags if tag == "img"]
    assert sum(", for " in label for label in labels) == 2 * 2 * 8
    text = (study / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", text)) == set()
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(text) < 1_000_000


def test_the_same_study_gives_the_same_bytes(study: Path, pair: tuple[Page, str], tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(study, copied, ignore=shutil.ignore_patterns("report.*", "figures"))
    report(copied)
    for name in ("report.html", "report.md", "figures/surface-0.svg"):
        assert (study / name).read_bytes() == (copied / name).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_without_evidence_the_claims_stand_with_the_command(tmp_path: Path) -> None:
    page, markdown = report(small(tmp_path))
    table = page.table("claim")
    assert len(table) == 1 + len(CLAIMS)
    verdicts = {row[0]: row[2] for row in table[1:]}
    assert verdicts["better calibrated (AMP's authors)"] == "not measured (flatnext evaluate STUDY --parts calibration)"
    assert "What the weights are like was not measured on any run." in page.text
    assert "\n    flatnext evaluate STUDY --parts calibration errors flatness corruptions attacks\n" in markdown
    assert "Sharpness and Hessian" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_runs_without_evidence_are_named(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=ALL)
    (folder / "amp/seed-1/evidence.json").unlink()
    change(folder, lambda parts, seed: parts.pop("attacks") if seed == 2 else None, ("sgd",))
    (folder / "sgd/seed-0/last.safetensors").write_bytes(b"other")
    page, _ = report(folder)
    assert "Left out, since its weights have changed since it was measured: sgd/seed-0." in page.text
    assert "Not measured: calibration, errors, flatness and corruptions on sgd/seed-0 and amp/seed-1;" in page.text
    assert "attacks on sgd/seed-0, sgd/seed-2 and amp/seed-1." in page.text
    assert "n = 1)" not in next(row for row in page.table("claim") if row[0] == "higher test accuracy")[1]
    calibrated = next(row for row in page.table("claim") if row[0].startswith("better calibrated"))
    assert calibrated[2] == "n = 1: no statement"


@pytest.mark.usefixtures("undrawn")
def test_one_recipe_is_described_and_no_claim_made(tmp_path: Path) -> None:
    page, _ = report(small(tmp_path, ("amp",), evidence=ALL))
    assert title(read_study([tmp_path])) == "Evidence"
    assert "Evidence" in page.text
    assert not any(table[0][0] == "claim" for table in page.tables)
    assert any(row[0] == "temperature" for table in page.tables for row in table)
    assert "Claims:" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_three_recipes_are_answered_apart(tmp_path: Path) -> None:
    folder = small(tmp_path, ("sgd", "amp", "momentum-amp"), evidence=ALL)
    page, _ = report(folder)
    table = page.table("claim")
    assert len(table) == 1 + 2 * len(CLAIMS)
    assert [row[0] for row in table[1:3]] == ["amp: higher test accuracy", "momentum-amp: higher test accuracy"]
    families = {tested.comparison.family for a in answers(read_study([folder])) for tested in a.tested}
    assert families >= {2, 4, 6}
    assert page.table("measure")[0][-3:] == ["momentum-amp − sgd", "95 % interval", "p"]


def test_a_method_that_is_not_amp_has_its_own_title(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", replace(recipe("sgd"), seed=seed), epochs=1)
        write_run(tmp_path / f"b-{seed}", replace(recipe("sgd"), recipe="sam", method=Sam(), seed=seed), epochs=1)
    assert title(read_study([tmp_path])) == "What the methods changed"


@pytest.mark.usefixtures("undrawn")
def test_failed_checks_are_shown(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("attacks",))
    change(folder, lambda parts, seed: parts["attacks"]["result"]["checks"][0].update(passed=False))
    page, _ = report(folder)
    assert ["FGSM is weaker than PGD", "amp/seed-1", "fgsm 0.5, pgd 0.3"] in page.table("check")
    robust = next(row for row in page.table("claim") if row[0].startswith("higher accuracy under attack"))
    assert "Checks of the attacks failed (3): see Attacks" in robust[1]


# Figures


def test_the_band_is_of_the_seeds(study: Path) -> None:
    group = read_study([study]).groups[1]
    curves = [
        json.loads((study / f"amp/seed-{seed}/evidence.json").read_text())["parts"]["flatness"]["result"]["random"]
        for seed in range(4)
    ]
    values = np.array([[curve["centre"], *curve["mean"]] for curve in curves])
    radii, mean, low, high = evidence_figures.loss_by_radius(group, "random") or ()
    assert list(radii) == [0.0, *curves[0]["radii"]]
    assert np.allclose([mean, low, high], [values.mean(0), values.min(0), values.max(0)])


def test_accuracy_by_severity_begins_with_the_images_as_they_are(study: Path) -> None:
    found = [row for row in rows(read_study([study]), measures.by_severity) if row.measure.kind == "severity.generated"]
    scores = [
        json.loads((study / f"amp/seed-{seed}/evidence.json").read_text())["parts"]["corruptions"]["result"][
            "generated"
        ]
        for seed in range(4)
    ]
    values = np.array([[each["clean"], *np.mean(list(each["accuracy"].values()), axis=0)] for each in scores])
    at, mean, low, high = evidence_robustness.accuracy_by(found, 1) or ()
    assert list(at) == [0, *scores[0]["severities"]]
    assert np.allclose([mean, low, high], 100 * np.array([values.mean(0), values.min(0), values.max(0)]))


def test_one_budget_is_no_line(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("attacks",))

    def keep_one(parts: dict[str, Any], seed: int) -> None:
        held = parts["attacks"]["result"]
        held["attacks"] = [each for each in held["attacks"] if each["attack"] == "pgd"][:1]

    assert evidence_robustness.figures(change(folder, keep_one, ("sgd", "amp"))) == []


def test_bins_are_pooled_over_images(study: Path) -> None:
    runs = read_study([study]).groups[0].runs
    found = [run.evidence.calibration.result.reliability for run in runs if run.evidence and run.evidence.calibration]
    _, accuracy, share = evidence_figures.pooled(found)
    right = sum((a or 0.0) * n for each in found for a, n in zip(each.accuracy, each.counts, strict=True))
    total = sum(n for each in found for n in each.counts)
    assert float((accuracy * share).sum()) == pytest.approx(right / total)
    assert float(share.sum()) == pytest.approx(1)


def test_levels_are_round_and_few() -> None:
    assert evidence_figures.levels([0.004, 2.0]) == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert evidence_figures.levels([1e-6, 1e9])[0] == pytest.approx(1e-5)
    assert len(evidence_figures.levels([1e-6, 1e9])) <= evidence_figures.LEVELS
    assert all(1.0 < level < 2.0 for level in evidence_figures.levels([1.0, 2.0]))
    assert evidence_figures.levels([1.0, 1.0]) == evidence_figures.levels([]) == []


def test_a_surface_without_a_finite_loss_stands_beside_another(tmp_path: Path) -> None:
    folder = small(tmp_path, seeds=1, evidence=("flatness",))
    nothing = [[None] * 11] * 11
    table = change(folder, lambda parts, seed: parts["flatness"]["result"]["surface"].update(losses=nothing))
    assert len(evidence_figures.figures(table)) == 2


@pytest.mark.parametrize("edit", ["flat", "hole"])
def test_odd_surfaces_and_curves_are_drawn(tmp_path: Path, edit: str) -> None:
    folder = small(tmp_path, ("sgd",), seeds=1, evidence=("flatness",))

    def odd(parts: dict[str, Any], seed: int) -> None:
        result = parts["flatness"]["result"]
        if edit == "flat":
            result["surface"]["losses"] = [[0.0] * 11] * 11
            result["random"] |= {"centre": 0.0, "mean": [0.0] * 6, "losses": [[0.0] * 6]}
        else:
            result["surface"]["losses"] = [[None] * 11] * 11
            result["random"] |= {"centre": None, "mean": [None] * 6, "losses": [[None] * 6]}

    table = change(folder, odd, ("sgd",))
    assert len(evidence_figures.figures(table)) == 2  # matplotlib warns of what it cannot draw, which fails the test


@pytest.mark.usefixtures("undrawn")
def test_a_part_may_hold_less(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("flatness",))
    less = {"gradient": None, "surface": None, "amp": [], "asam": [], "eigenvalues": None}
    table = change(folder, lambda parts, seed: parts["flatness"]["result"].update(less), ("sgd", "amp"))
    assert [tested.row.measure.kind for tested in answer(table, "a flatter minimum").tested] == ["rise.random"]
    page, _ = report(folder)
    assert "Loss along the gradient" not in page.text


def test_flatness_on_test_images_is_no_gap_and_not_compared_with_training_images(tmp_path: Path) -> None:
    folder = small(tmp_path, evidence=("flatness",))
    table = change(folder, lambda parts, seed: parts["flatness"]["result"].update(split="test"))
    row = next(row for row in rows(table, measures.flatness) if row.measure.kind == "trace")
    assert row.problem().startswith("measured with different settings: split train or test")
    assert answer(table, "less overfitting").verdict == "not measured"


def test_numbers_have_three_digits() -> None:
    assert [decimals([value]) for value in (0.000123, 0.0123, 1.5, 12.3, 1234.0, 0.0)] == [6, 4, 2, 1, 0, 2]
    assert (decimal(-0.004, 2), decimal(-1.5, 1, sign=True), decimal(1.5, 1, sign=True)) == ("0.00", "−1.5", "+1.5")
