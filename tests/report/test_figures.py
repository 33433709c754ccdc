"""What the figures of the report draw, and that odd values are drawn without a warning."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from fake_evidence import PARTS
from fake_study import edit_evidence, small_study, write_study
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pages import report

from flatnext.report import accuracy, calibration, drawing, flatness, robustness
from flatnext.report.curves import curve, curves
from flatnext.report.numbers import decimal, decimals
from flatnext.study.reading import read_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), seeds=(0, 1, 2, 3), epochs=3, evidence=PARTS)


def parts(folder: Path, part: str) -> list[dict[str, Any]]:
    files = (folder / f"amp/seed-{seed}/evidence.json" for seed in range(4))
    return [json.loads(file.read_text())["parts"][part]["result"] for file in files]


def is_band(band: Any, at: list[float], values: np.ndarray) -> bool:
    expected = [values.mean(0), values.min(0), values.max(0)]
    return list(band.at) == at and np.allclose([band.mean, band.low, band.high], expected)


def test_curves_are_means_of_the_metrics(folder: Path) -> None:
    lines = [(folder / f"amp/seed-{seed}/metrics.jsonl").read_text().splitlines() for seed in range(4)]
    values = np.array([[json.loads(line)["test_loss"] for line in run] for run in lines])
    assert is_band(curve(read_study([folder]).groups[1], "test_loss"), [1, 2, 3], values)


def test_the_seeds_stand_beside_their_mean_and_its_interval(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}

    def render(name: str, alt: str, title: str, draw: Any, size: Any) -> str:
        draw(axes := Figure().subplots())
        drawn[name] = [line.get_ydata() for line in axes.lines if line.get_linewidth() == 1.6]
        return ""

    monkeypatch.setattr(drawing, "render", render)
    accuracy.accuracy(read_study([folder]))
    expected: list[list[float]] = []
    for recipe in ("sgd", "amp"):
        results = [json.loads(file.read_text()) for file in folder.glob(f"{recipe}/*/result.json")]
        values = [100 * result["last"]["test"]["accuracy"] for result in results]
        low, high = scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))
        expected += [[np.mean(values)] * 2, [low, high]]
    assert np.allclose(drawn["seeds"], expected)


def metrics(folder: Path, edit: Callable[[int, dict[str, Any]], None]) -> None:
    for file in folder.rglob("metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for number, line in enumerate(lines):
            edit(number, line)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_epochs_without_an_evaluation_are_left_out_of_the_curve(tmp_path: Path) -> None:
    def skip(number: int, line: dict[str, Any]) -> None:
        if number % 2 == 0:
            line |= {name: None for name in line if name.startswith(("test", "validation"))}

    folder = write_study(tmp_path, seeds=(0, 1), epochs=5)
    metrics(folder, skip)
    study = read_study([folder])
    for group in study.groups:
        held_out, training = curve(group, "test_accuracy"), curve(group, "train_accuracy")
        assert held_out is not None
        assert training is not None
        assert (list(held_out.at), list(training.at)) == ([2, 4], [1, 2, 3, 4, 5])
    assert len(curves(study).blocks) == 3


def test_an_early_outlier_does_not_flatten_the_loss(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0,), epochs=4)
    metrics(folder, lambda number, line: line.update(test_loss=1e10) if number == 0 else None)
    report(folder)
    for number in (0, 1):
        svg = (folder / f"figures/curves-{number}-loss.svg").read_text(encoding="utf-8")
        assert 1 < max(float(tick) for tick in re.findall(r">([\d.]+)</text>", svg)) <= 4


def test_the_band_of_the_loss_is_of_the_seeds(folder: Path) -> None:
    lines = [part["random"] for part in parts(folder, "flatness")]
    values = np.array([[line["centre"], *line["mean"]] for line in lines])
    band = flatness.loss_by_radius(read_study([folder]).groups[1], "random")
    assert is_band(band, [0.0, *lines[0]["radii"]], values)


def test_accuracy_by_severity_begins_with_the_images_as_they_are(folder: Path) -> None:
    scores = [part["generated"] for part in parts(folder, "corruptions")]
    values = np.array([[s["clean"], *np.mean(list(s["accuracy"].values()), axis=0)] for s in scores])
    quantities = read_study([folder]).select("corruptions.mean", split="test", at=True)
    assert is_band(robustness.accuracy_by(quantities, "amp"), [0, *scores[0]["severities"]], 100 * values)


def test_bins_are_pooled_over_images(folder: Path) -> None:
    runs = read_study([folder]).groups[0].runs
    diagrams = [
        run.evidence.calibration.result.reliability for run in runs if run.evidence and run.evidence.calibration
    ]
    _, accuracy, share = calibration.pooled(diagrams)
    right = sum((a or 0.0) * n for d in diagrams for a, n in zip(d.accuracy, d.counts, strict=True))
    total = sum(n for diagram in diagrams for n in diagram.counts)
    assert float((accuracy * share).sum()) == pytest.approx(right / total)
    assert float(share.sum()) == pytest.approx(1)


def test_levels_are_round_and_few() -> None:
    assert flatness.levels([0.004, 2.0]) == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert len(flatness.levels([1e-6, 1e9])) <= flatness.LEVELS
    assert all(1.0 < level < 2.0 for level in flatness.levels([1.0, 2.0]))
    assert flatness.levels([1.0, 1.0]) == flatness.levels([]) == []


@pytest.mark.parametrize("odd", ["flat", "nothing finite", "one not finite"])
def test_odd_losses_are_drawn(tmp_path: Path, odd: str) -> None:
    def edit(parts: dict[str, Any], seed: int) -> None:
        result = parts["flatness"]["result"]
        if odd == "one not finite":
            result["surface"]["losses"][0][0] = result["random"]["mean"][-1] = None
        else:
            value = 0.0 if odd == "flat" else None
            result["surface"]["losses"] = [[value] * 11] * 11
            result["random"] |= {"centre": value, "mean": [value] * 6, "losses": [[value] * 6]}

    study = edit_evidence(small_study(tmp_path, seeds=1, evidence=("flatness",)), edit, ("sgd", "amp"))
    assert len(flatness.figures(study)) == 2  # matplotlib warns of what it cannot draw, which fails the test


def test_different_settings_are_not_drawn_together(tmp_path: Path) -> None:
    def edit(parts: dict[str, Any], seed: int) -> None:
        result = parts["flatness"]["result"]
        result["random"]["count"] = result["surface"]["count"] = 7
        for attack in parts["attacks"]["result"]["attacks"]:
            attack["count"] = 7

    study = edit_evidence(small_study(tmp_path, seeds=1, evidence=("flatness", "attacks")), edit)
    names = [panel.name for block in flatness.figures(study) for panel in getattr(block, "panels", ())]
    assert names == ["flat-gradient"]
    assert not any(hasattr(block, "panels") for block in robustness.figures(study))


def test_what_was_measured_on_different_images_is_not_drawn_together(tmp_path: Path) -> None:
    folder = small_study(tmp_path, seeds=1, evidence=("flatness",))
    study = edit_evidence(folder, lambda parts, seed: parts["flatness"]["settings"].update(seed=1))
    assert not any(hasattr(block, "panels") for block in flatness.figures(study))


def test_one_budget_is_no_line(tmp_path: Path) -> None:
    def keep_one(parts: dict[str, Any], seed: int) -> None:
        result = parts["attacks"]["result"]
        result["attacks"] = [attack for attack in result["attacks"] if attack["attack"] == "pgd"][:1]

    study = edit_evidence(small_study(tmp_path, evidence=("attacks",)), keep_one, ("sgd", "amp"))
    assert robustness.figures(study) == []


@pytest.mark.usefixtures("undrawn")
def test_figures_that_are_in_doubt_are_marked(tmp_path: Path) -> None:
    def edit(parts: dict[str, Any], seed: int) -> None:
        if seed == 1:
            parts["calibration"]["result"]["scaled"]["temperature"] = 0.01
            parts["flatness"]["result"]["eigenvalues"] |= {"converged": False, "residuals": [1.5, 2.0]}
        parts["attacks"]["result"]["checks"][0].update(passed=False)

    folder = small_study(tmp_path, evidence=PARTS)
    edit_evidence(folder, edit)
    page, _ = report(folder)
    assert "the figures after scaling mean nothing (amp/seed-1)" in page.text
    assert "had not converged in amp/seed-1: residual up to 1.50" in page.text
    assert ["FGSM is weaker than PGD", "amp/seed-1", "fgsm 0.5, pgd 0.3"] in page.table("check")
    attacked = next(row for row in page.table("claim") if row[0].startswith("higher accuracy under attack"))
    assert "checks of the attacks failed (3)" in attacked[1]


def test_numbers_have_three_digits() -> None:
    assert [decimals([value]) for value in (0.000123, 0.0123, 1.5, 12.3, 1234.0, 0.0)] == [6, 4, 2, 1, 0, 2]
    assert (decimal(-0.004, 2), decimal(-1.5, 1, sign=True), decimal(1.5, 1, sign=True)) == ("0.00", "−1.5", "+1.5")


def test_texts_are_drawn_as_they_are() -> None:
    band = drawing.Band(*(np.arange(2.0),) * 4)
    lines = [drawing.Line(label, "#000000", band) for label in ("_mine", "a $x_{ b $", "amp")]

    def draw(axes: Axes) -> None:
        drawing.plot(axes, lines)
        axes.legend()

    drawn = drawing.panel("name", "alt", "5 $ and $_{", draw).svg
    assert all(text in drawn for text in ("_mine", "a $x_{ b $", "amp", "5 $ and $_{"))
