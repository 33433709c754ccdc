"""The report as HTML, Markdown and CSV, from made-up studies."""

import csv
import json
import re
import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_evidence import PARTS
from fake_study import CLASSES, edit_evidence, small_study, write_json, write_run, write_study
from pages import Page, report
from places import FIXTURES
from scipy import stats
from sklearn.metrics import f1_score

from flatnext.config import METHODS, Amp, recipe
from flatnext.errors import InputError
from flatnext.report import write_report
from flatnext.report.drawing import literal
from flatnext.report.markdown import escape
from flatnext.report.page import bound
from flatnext.report.protocol import remarks
from flatnext.study.advice import summary
from flatnext.study.claims import CLAIMS, answers
from flatnext.study.groups import setting_text
from flatnext.study.reading import read_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), seeds=(0, 1, 2), epochs=4, evidence=PARTS)


@pytest.fixture(scope="module")
def pair(study: Path) -> tuple[Page, str]:
    return report(study)


@pytest.mark.usefixtures("undrawn")
def test_the_markdown_looks_as_it_is_kept(tmp_path: Path) -> None:
    """Look at what changed, and copy the file that is named into `tests/fixtures/` if it is what you want.

    Settings and versions are left out: they change for other reasons.
    """
    folder = write_study(tmp_path, ("sgd", "amp", "report-amp"), seeds=(0, 1, 2), epochs=3, evidence=PARTS)
    before, after = report(folder)[1].split("## Settings and machine")
    (tmp_path / "report.md").write_text(before + after[after.index("## How to read") :], encoding="utf-8")
    kept = (FIXTURES / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == kept, tmp_path / "report.md"


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        ("sgd amp", {}, "alone. long is plain SGD with the passes of amp."),
        (
            "sgd amp",
            {"weight_decay": 1e-4},
            "alone. long is plain SGD with the passes of amp; it differs in weight_decay too.",
        ),
        ("amp", {"learning_rate": 0.2}, "long is plain SGD with the passes of amp; it differs in learning_rate too."),
    ],
)
def test_what_a_longer_control_differs_in_is_said(
    tmp_path: Path, names: str, changes: dict[str, float], said: str
) -> None:
    write_study(tmp_path, names.split(), seeds=(0, 1), epochs=2)
    long = recipe("sgd").override({"recipe": "long", "epochs": 2 * recipe("amp").epochs, "warmup_epochs": 2, **changes})
    for seed in (0, 1):
        write_run(tmp_path / "long" / f"seed-{seed}", replace(long, seed=seed), epochs=4)
    (tmp_path / "study.json").unlink()
    (text,) = (text for text in remarks(read_study([tmp_path])) if "passes" in text)
    assert text.endswith(said)
    assert text.startswith("The recipes differ in the method and its settings alone." if "sgd" in names else said)


def test_what_to_take_comes_first(study: Path, pair: tuple[Page, str]) -> None:
    page, markdown = pair
    advised, sentence = summary(read_study([study]))
    assert page.text.index(advised) < page.text.index(sentence) < page.text.index("Test accuracy")
    assert markdown.startswith(f"# sgd and amp on CIFAR-10\n\n**{escape(advised)}**\n\n{escape(sentence)}\n")


def test_each_recipe_has_its_interval_its_cost_and_the_largest_class_beside_it(
    study: Path, pair: tuple[Page, str]
) -> None:
    page, _ = pair
    header, sgd, amp, always = page.table("recipe")
    assert header == ["recipe", "n", "test accuracy (%)", "95 % interval", "passes", "training a run"]
    values = [100 * value for value in read_study([study]).accuracy.values("amp").values()]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert amp[:5] == [
        "amp",
        "3",
        f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}",
        f"{low:.2f} to {high:.2f}",
        "8",
    ]
    assert sgd[4] == "4"
    assert always[:3] == ["always “airplane”", "–", "10.00"]
    assert "Deploy a recipe's last epoch (last.safetensors)" in page.text


def pairs_of(matrix: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Return true and predicted classes of a confusion matrix, image by image."""
    pairs = [(i, j) for i, row in enumerate(matrix) for j, count in enumerate(row) for _ in range(count)]
    return [true for true, _ in pairs], [predicted for _, predicted in pairs]


@pytest.mark.usefixtures("undrawn")
def test_a_collapsed_recipe_is_warned_of_before_all_figures(tmp_path: Path) -> None:
    matrices = {"sgd": ((88, 1, 1), (2, 57, 1), (1, 2, 27)), "amp": ((90, 0, 0), (57, 2, 1), (28, 1, 1))}
    for name, matrix in matrices.items():
        for seed in range(3):
            config = replace(recipe(name), seed=seed)
            options = {"epochs": 2, "classes": ("cat", "dog", "fox"), "test_images": 180}
            write_run(tmp_path / f"{name}-{seed}", config, confused=matrix, **options)
    page, markdown = report(tmp_path)
    warning = "Warning: amp collapsed in 3 of 3 runs: it predicts “cat” for 175 of 180 test images"
    assert page.text.index("Take sgd, ") < page.text.index(warning) < page.text.index("Test accuracy")
    assert "\n\n**Warning:** amp collapsed in 3 of 3 runs" in markdown
    header, sgd, amp, always = page.table("recipe")
    assert header[2:5] == ["balanced test accuracy (%)", "95 % interval", "test accuracy (%)"]
    balanced = [np.mean(np.diag(matrix) / np.sum(matrix, axis=1)) for matrix in matrices.values()]
    assert [row[2] for row in (sgd, amp)] == [f"{100 * value:.2f} ± 0.00" for value in balanced]
    assert (always[0], always[2], always[4]) == ("always “cat”", "33.33", "50.00")
    assert page.row("test accuracy, balanced over classes (%)")[3].startswith("35.56")
    keys = [f"{100 * balanced[0]:.2f} ± 0.00 %", "balanced test accuracy, last epoch, 3 seeds"]
    assert all(key in page.text for key in keys)
    scores = {name: f1_score(*pairs_of(matrices[name]), average=None) for name in matrices}
    assert page.table("class")[1][:3] == ["cat (%)", *(f"{100 * scores[name][0]:.2f} ± 0.00" for name in matrices)]
    interval = stats.binomtest(172, 180).proportion_ci(0.95, method="wilson")
    assert sgd[4] == f"95.56 ± 0.00 ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


@pytest.mark.usefixtures("undrawn")
def test_the_claims_say_nothing_of_longer_training_that_follows_from_two_passes(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    page, _ = report(folder)
    row = page.row("longer training")
    assert row[1].endswith("; 2 passes a step against 1")
    assert row[2] == "by construction"


def test_both_forms_hold_the_same_tables(pair: tuple[Page, str]) -> None:
    page, markdown = pair
    for table in page.tables:
        for row in table:
            assert f"| {' | '.join(map(escape, row))} |" in markdown


def test_the_scores_are_those_of_the_runs(study: Path, pair: tuple[Page, str]) -> None:
    page, _ = pair
    results = [json.loads((study / f"amp/seed-{seed}/result.json").read_text()) for seed in range(3)]
    scores = {
        "test accuracy (%)": [f"{100 * r['last']['test']['accuracy']:.6f}" for r in results],
        "test loss": [f"{r['last']['test']['loss']:.6f}" for r in results],
    }
    for first, texts in scores.items():
        values, digits = list(map(float, texts)), 2 if "%" in first else 4
        table = page.table("measure")
        column = table[0].index("amp")
        shown = next(row for row in table if row[0] == first)[column]
        assert shown == f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def test_classes_and_confusions_are_those_of_the_runs(study: Path, pair: tuple[Page, str]) -> None:
    page, _ = pair
    results = [json.loads((study / f"sgd/seed-{seed}/result.json").read_text()) for seed in range(3)]
    matrices = np.array([result["last"]["test"]["confusion"] for result in results])
    shown = [[int(cell) for cell in row[1:]] for row in page.table("true class")[1:]]
    assert np.array_equal(shown, matrices.sum(axis=0))
    recall = 100 * matrices[:, 3, 3] / matrices[:, 3].sum(axis=1)
    assert page.row("cat (%)")[1].startswith(f"{recall.mean():.2f} ± {recall.std(ddof=1):.2f} (")


def test_each_claim_has_its_verdict(study: Path, pair: tuple[Page, str]) -> None:
    page, _ = pair
    table = page.table("claim")
    found = answers(read_study([study]))
    assert table[0] == ["claim", "measured", "verdict"]
    assert [row[2] for row in table[1:]] == [answer.verdict for answer in found]
    says = {"for": "for it", "against": "against it", "open": "open"}
    tested = [says[t.outcome] for answer in found for t in answer.tested]
    behind = page.tables[page.tables.index(table) + 1]
    assert [row[-1] for row in behind[1:] if row[-1] != "not tested"] == tested


def test_the_cost_is_compared_with_the_baseline(pair: tuple[Page, str]) -> None:
    page, _ = pair
    ratio = re.search(r"An epoch of amp takes ([\d.]+) times as long as one of sgd", page.text)
    assert ratio is not None
    assert float(ratio[1]) == pytest.approx(930 / 480, abs=0.05)


def test_the_csv_is_the_table(study: Path, pair: tuple[Page, str]) -> None:
    with open(study / "measurements.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = read_study([study]).measurements
    assert list(rows[0]) == ["recipe", "seed", "split", "measure", "at", "value", "images", "unit", "conditions"]
    assert len(rows) == len(table)
    for row, measurement in zip(rows, table, strict=True):
        assert (row["recipe"], row["measure"]) == (measurement.recipe, measurement.measure)
        assert (float(row["value"]) if row["value"] else None) == measurement.value
    assert rows[0]["unit"] == "fraction"
    assert "bins=15" in next(row["conditions"] for row in rows if row["measure"] == "ece")


def test_the_page_needs_nothing_else(study: Path, pair: tuple[Page, str]) -> None:
    page, _ = pair
    text = (study / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, a in page.tags if (value := a.get("href") or a.get("xlink:href") or "")[:1] == "#"}
    assert targets <= set(ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(ids)
    assert len(text) < 1_000_000


def test_pictures_and_figures_have_words(pair: tuple[Page, str]) -> None:
    page, _ = pair
    images, figures = page.attributes("img"), page.attributes("svg")
    assert len(images) == 24 + 2 * 8 * 3
    assert len(figures) == 2 + 2 * 3 + 2 + 2 + 2 + 1 + 1
    assert all(image["alt"] for image in images)
    assert all(figure["role"] == "img" and figure["aria-labelledby"] for figure in figures)


def test_figures_follow_the_theme(study: Path, pair: tuple[Page, str]) -> None:
    text = (study / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", text)) == set()
    assert "var(--series-0)" in text
    for file in (study / "figures").glob("*.svg"):
        assert "prefers-color-scheme: dark" in "".join(ET.parse(file).getroot().itertext())


def test_markdown_shows_files_that_are_there(study: Path, pair: tuple[Page, str]) -> None:
    _, markdown = pair
    named = set(re.findall(r"\]\(([^)]*)\)", markdown))
    assert named == {f"figures/{file.name}" for file in (study / "figures").iterdir()}
    assert all((study / name).read_bytes().startswith(b"\x89PNG") for name in named if name.endswith("png"))


def test_the_same_runs_give_the_same_bytes(study: Path, pair: tuple[Page, str], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report.*", "measurements.csv", "figures"))
    report(copy)
    written = sorted(file.relative_to(study) for file in study.rglob("*") if file.is_file())
    assert written == sorted(file.relative_to(copy) for file in copy.rglob("*") if file.is_file())
    assert str(study) not in pair[1]  # the path is in commands alone, and here there is none to give
    assert [name for name in written if (study / name).read_bytes() != (copy / name).read_bytes()] == []


def test_a_deleted_run_changes_tables_and_curves(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1, 2), epochs=3)
    before, _ = report(folder)
    curve = (folder / "figures/curves-1-loss.svg").read_bytes()
    shutil.rmtree(folder / "amp/seed-1")
    after, _ = report(folder)
    assert [page.table("recipes")[1][1] for page in (before, after)] == ["3", "2"]
    assert "over 3, 2 seeds" in after.text
    assert curve != (folder / "figures/curves-1-loss.svg").read_bytes()
    assert "1 run is not in the statistics" in after.text
    assert after.row("amp/seed-1") == ["amp/seed-1", "not started, or deleted"]


@pytest.mark.usefixtures("undrawn")
def test_figures_of_an_earlier_report_are_removed_and_no_other_file(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd", "amp", "report-amp"), seeds=(0,), epochs=2)
    report(folder)
    (folder / "figures/mine.png").write_bytes(b"")
    assert (folder / "figures/curves-2-loss.svg").exists()
    shutil.rmtree(folder / "report-amp")
    report(folder)
    assert not (folder / "figures/curves-2-loss.svg").exists()
    assert (folder / "figures/mine.png").exists()


def test_one_seed_claims_nothing(tmp_path: Path) -> None:
    page, markdown = report(write_study(tmp_path, seeds=(4,), epochs=1, evidence=PARTS))
    assert {row[2] for row in page.table("claim")[1:-1]} == {"n = 1: no statement"}
    assert "±" not in " ".join(cell for table in page.tables[:3] for row in table for cell in row)
    assert "nan" not in markdown.lower().split()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({}, "on the test set (solid) and in training (dotted)"),
        ({"test_curve": False}, "on the validation split (solid) and in training (dotted)"),
        ({"test_curve": False, "validation": False}, "loss and accuracy by epoch in training"),
    ],
)
def test_what_is_held_out_is_drawn(tmp_path: Path, options: dict[str, bool], where: str) -> None:
    page, _ = report(write_study(tmp_path, seeds=(0, 1), epochs=2, **options))
    assert where in page.text
    assert ("validation split, so that no epoch" in page.text) == (options.get("validation") is False)


def test_a_recipe_without_metrics_is_left_out_of_the_curves(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd", "amp", "report-amp"), seeds=(0,), epochs=2)
    (folder / "amp/seed-0/metrics.jsonl").write_text("")
    page, _ = report(folder)  # matplotlib warns of an empty legend, and a warning fails the tests
    assert "Not drawn, since its runs hold no metrics: amp." in page.text
    curves = {file.name for file in (folder / "figures").glob("curves-*-loss.svg")}
    assert curves == {"curves-all-loss.svg", "curves-0-loss.svg", "curves-2-loss.svg"}
    for file in folder.rglob("metrics.jsonl"):
        file.write_text("")
    page, _ = report(folder)
    assert not list((folder / "figures").glob("curves-*"))


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_are_listed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    config = replace(recipe("amp"), seed=2)
    write_run(folder / "amp/seed-2", config, finished=False, error="loss is nan at step <7> | try a lower rate")
    page, markdown = report(folder)
    assert page.row("amp/seed-2")[1] == "failed after 4 of 8 epochs: loss is nan at step <7> | try a lower rate"
    assert r"step &lt;7&gt; \| try" in markdown


def test_nothing_finished_is_a_report_too(tmp_path: Path) -> None:
    write_run(tmp_path / "run", recipe("sgd"), finished=False)
    page, _ = report(tmp_path)
    assert "No run has finished" in page.text
    assert page.table("run")[1][1] == "unfinished: 4 of 8 epochs"
    assert (tmp_path / "measurements.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("number", [31, 100])
def test_many_classes_stay_usable(tmp_path: Path, number: int) -> None:
    classes = [f"class {number}" for number in range(number)]
    page, _ = report(write_study(tmp_path, seeds=(0, 1), epochs=2, classes=classes))
    assert max(len(row) for table in page.tables for row in table) < 12
    assert (tmp_path / "figures/confusion-1.svg").exists()
    errors = page.table("error")
    assert len(errors) == 21
    assert [float(row[2]) for row in errors[1:]] == sorted((float(row[2]) for row in errors[1:]), reverse=True)


def test_of_very_many_classes_only_those_recognised_least_have_a_row(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(120)]
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2, classes=classes)
    page, markdown = report(folder)
    assert "Accuracy of the 20 of 120 classes that are recognised least (all: measurements.csv)" in markdown
    results = [json.loads(file.read_text()) for file in folder.glob("*/seed-*/result.json")]
    matrices = np.array([result["last"]["test"]["confusion"] for result in results])
    recall = (matrices.diagonal(axis1=1, axis2=2) / matrices.sum(axis=2)).mean(axis=0)
    shown = [int(row[0].split()[1]) for row in page.table("class")[1:]]
    assert len(shown) == 20
    assert np.sort(recall[shown]) == pytest.approx(np.sort(recall)[:20])


@pytest.mark.usefixtures("undrawn")
def test_settings_that_no_run_has_as_its_recipe_are_remarked(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    for number, file in enumerate(sorted(folder.rglob("environment.json"))):
        own = {"epochs": 2, "batch_size": 32, "learning_rate": 0.1 * number}
        write_json(file, json.loads(file.read_text()) | {"not_of_recipe": own})
    page, _ = report(folder)
    assert "All runs have settings that are not their recipe's own: epochs 2 and batch_size 32." in page.text


@pytest.mark.usefixtures("undrawn")
def test_mistakes_name_their_file(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd",), seeds=(0,), epochs=1)
    file = folder / "sgd/seed-0/result.json"
    content = json.loads(file.read_text())
    content["mistakes"] = [content["mistakes"][0] | {"index": 7, "file": "cat/<b> 1.png"}]
    write_json(file, content)
    page, markdown = report(folder)
    assert [image["alt"] for image in page.attributes("img")] == ["test image 7, cat/<b> 1.png"]
    assert "cat/<b> 1.png" in page.text
    assert "(figures/mistake-0-7.png) | cat/&lt;b&gt; 1.png | is " in markdown


@pytest.mark.usefixtures("undrawn")
def test_a_commit_that_is_not_known_is_said_where_another_is(tmp_path: Path) -> None:
    folder = small_study(tmp_path, recipes=("sgd",), seeds=2)
    page, _ = report(folder)
    with pytest.raises(StopIteration):  # there is no such row
        page.row("commit")
    file = folder / "sgd/seed-0/environment.json"
    content = json.loads(file.read_text())
    content["sessions"][0]["commit"] = "0123456789ab"
    write_json(file, content)
    page, _ = report(folder)
    assert page.row("commit")[1] == "0123456789ab (1 of 2 runs); not recorded (1 of 2 runs)"


@pytest.mark.usefixtures("undrawn")
def test_a_path_that_is_not_utf8_is_written_with_escapes(tmp_path: Path) -> None:
    folder = small_study(tmp_path, seeds=1)
    for file in folder.glob("*/*/environment.json"):
        content = json.loads(file.read_text())
        content["data_dir"] = "/data/caf\udce9"
        content["sessions"][0]["command"] = "flatnext study --data-dir 'caf\udce9'"
        write_json(file, content)
    page, markdown = report(folder)
    assert "--data-dir 'caf\\udce9'" in page.text
    assert "--data-dir 'caf\\udce9'" in markdown


def test_control_characters_reach_no_output(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a\x1b[2Jb\u202ec", seeds=(0,), epochs=2)
    write_run(folder / "x\x1b\x07y" / "seed-7", replace(recipe("sgd"), seed=7), finished=False)
    for file in folder.rglob("environment.json"):
        content = json.loads(file.read_text())
        write_json(file, content | {"classes": ["cat\x1b[31m", "d\u202eog", *CLASSES[2:]]})
    page, markdown = report(folder)
    table = (folder / "measurements.csv").read_text(encoding="utf-8")
    for text in ((folder / "report.html").read_text(encoding="utf-8"), markdown, table):
        assert not [c for c in text if not (c.isprintable() or c in "\n\u00a0")]
    assert page.table("true class")[0][1:3] == ["cat[31m", "dog"]
    assert "recall.cat[31m" in table
    assert page.row("xy/seed-7")[1] == "unfinished: 4 of 8 epochs"


def test_names_in_figures_are_clean(tmp_path: Path) -> None:
    names = ["caf\udce9.pt", "c\x1b[2J\x0b\x01.pt", "a\u202eb.pt", "run-#22252a(url(#x).pt"]
    for number, name in enumerate(names):
        config = recipe("sgd").override({"weights": name, "recipe": f"arm{number}"})
        for seed in (0, 1):
            write_run(tmp_path / config.recipe / f"seed-{seed}", replace(config, seed=seed), epochs=2)
    for file in tmp_path.rglob("environment.json"):
        content = json.loads(file.read_text())
        weights = names[int(file.parts[-3].removeprefix("arm"))]
        write_json(file, content | {"not_of_recipe": {"weights": weights}})
    report(tmp_path)
    for file in (tmp_path / "figures").glob("*.svg"):
        text = file.read_text(encoding="utf-8")
        ET.fromstring(text)
        assert not [c for c in text if not (c.isprintable() or c in "\n\u200b\u00a0")]
    drawn = (tmp_path / "figures" / "curves-all-accuracy.svg").read_text(encoding="utf-8")
    assert "#22252a(url(#x).pt" in drawn
    assert "caf\\udce9.pt" in drawn


def test_a_text_in_a_figure_keeps_its_lines() -> None:
    assert literal("two\nlines\x1b of $5") == "two\nlines of \\$5"


def test_names_are_escaped(tmp_path: Path) -> None:
    classes = ["<b>bold</b>", "a|b", "</title><script>alert(1)</script>", "&amp;", "*x*", *CLASSES[5:]]
    write_study(tmp_path, seeds=(0, 1), epochs=2, classes=classes)
    for seed in (0, 1):
        for name in ("sgd", "amp"):
            file = tmp_path / name / f"seed-{seed}" / "environment.json"
            content = json.loads(file.read_text())
            content["sessions"][0] |= {"command": "flatnext train <i>", "device_name": "chip <i>"}
            write_json(file, content)
    page, markdown = report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not any(tag in text for tag in ("<b>", "<script", "<i>"))
    assert [row[0] for row in page.table("true class")[1:6]] == classes[:5]
    assert "flatnext train <i>" in page.text
    assert page.row("device") == ["device", "chip <i>"]
    rendered = re.sub(r"(?m)^    .*$", "", markdown)  # all but code
    assert not re.search(r"<(?!/?(details|summary)>)", rendered)
    assert r"| a\|b |" in markdown
    for figure in (tmp_path / "figures").glob("*.svg"):
        ET.parse(figure)


@pytest.mark.usefixtures("undrawn")
def test_a_subset_is_remarked(tmp_path: Path) -> None:
    for name in ("sgd", "amp"):
        config = recipe(name)
        write_run(tmp_path / name, replace(config, data=replace(config.data, train_images=2000)), epochs=2)
    page, markdown = report(tmp_path)
    assert "Trained on a subset of CIFAR-10: 2,000 images." in page.text
    assert "Trained on a subset of CIFAR-10: 2,000 images." in markdown


def test_weights_that_may_know_the_validation_images_are_remarked(tmp_path: Path) -> None:
    folder = small_study(tmp_path, seeds=1)
    file = folder / "amp" / "seed-0" / "environment.json"
    start = {"weights": "w", "sha256": "ab", "taken": "all", "may_know_held_out": True}
    write_json(file, json.loads(file.read_text()) | {"started_from": start})
    assert any(
        text.startswith("amp/seed-0 started from weights that may have been trained on the validation images")
        for text in remarks(read_study([folder]))
    )


@pytest.mark.usefixtures("undrawn")
def test_machines_that_differ_are_shown(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    file = folder / "amp/seed-0/environment.json"
    content = json.loads(file.read_text()) | {"precision": "fp32"}
    moved = {"torch": "2.9.0", "device_name": "NVIDIA H200", "threads": 8, "processes": 4}
    content["sessions"].append(content["sessions"][0] | moved)
    write_json(file, content)
    page, _ = report(folder)
    assert "not all made with the same device, precision and version of torch" in page.text
    rows = {row[0]: row[1] for row in page.table("seeds")}
    assert rows["torch"] == "2.13.0+cpu (3 of 4 runs); 2.13.0+cpu, 2.9.0 (1 of 4 runs)"
    assert rows["device"] == "AMD EPYC (3 of 4 runs); AMD EPYC, NVIDIA H200 (1 of 4 runs)"
    assert rows["threads"] == "2 (3 of 4 runs); 2, 8 (1 of 4 runs)"
    assert rows["processes"] == "1 (3 of 4 runs); 1, 4 (1 of 4 runs)"
    assert rows["precision"] == "bf16 (3 of 4 runs); fp32 (1 of 4 runs)"


@pytest.mark.usefixtures("undrawn")
def test_the_commands_are_those_of_the_runs(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    last = "flatnext study --recipes sgd amp --seeds 2 --output 'a b'"
    for name in ("sgd", "amp"):
        file = folder / name / "seed-1/environment.json"
        content = json.loads(file.read_text())
        again = content["sessions"][0] | {"command": last, "started": "2026-11-24T00:00:00+00:00"}
        write_json(file, content | {"sessions": [*content["sessions"], again]})
    plan = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", plan | {"command": "flatnext study --never-ran"})
    _, markdown = report(folder)
    assert f"\n    flatnext study --recipes sgd amp --seeds 2\n    {last}\n\n" in markdown
    assert "--never-ran" not in markdown


@pytest.mark.usefixtures("undrawn")
def test_a_loss_that_was_not_finite_is_a_dash(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1, 2), epochs=2)
    file = folder / "amp/seed-1/result.json"
    content = json.loads(file.read_text())
    content["last"]["test"]["loss"] = content["last"]["validation"]["loss"] = None
    write_json(file, content)
    page, _ = report(folder)
    table = page.table("measure")
    loss = dict(zip(table[0], next(row for row in table if row[0] == "test loss"), strict=True))
    assert loss["amp"] == "–"
    assert "±" in loss["sgd"]
    assert "test loss (not finite in amp, seed 1)" in page.text


@pytest.mark.usefixtures("undrawn")
def test_recipes_with_the_same_settings(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", replace(recipe("sgd"), seed=seed), epochs=2)
        write_run(tmp_path / f"b-{seed}", replace(recipe("sgd"), recipe="again", seed=seed), epochs=2)
    page, _ = report(tmp_path)
    assert "The recipes have the same settings." in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_setting_that_a_method_lacks_is_a_dash(tmp_path: Path) -> None:
    methods = [method() for method in METHODS.values()]
    for method in methods:
        write_run(tmp_path / method.name, replace(recipe("sgd"), recipe=method.name, method=method), epochs=1)
    page, _ = report(tmp_path)
    (header, *rows) = page.table("setting")
    shown = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    for name, by_method in shown.items():
        for method in methods:
            value = method.name if name == "method" else getattr(method, name, None)
            assert by_method[method.name] == setting_text(value)
    assert {name for name, value in shown["rho"].items() if value != "–"} == {"sam", "asam"}
    common = dict(page.table("dataset"))
    assert not common.keys() & shown.keys()
    assert (common["perturb_every"], common["radius_schedule"], common["m_sharpness"]) == ("1", "constant", "no")
    assert "The recipes differ in the method and its settings alone." in page.text


@pytest.mark.usefixtures("undrawn")
def test_settings_that_are_not_at_their_default_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "sgd", recipe("sgd"), epochs=1)
    write_run(tmp_path / "amp", replace(recipe("amp"), method=Amp(perturb_every=2)), epochs=1)
    page, _ = report(tmp_path)
    rows = page.table("setting")
    assert rows[0] == ["setting", "sgd", "amp"]
    assert ["perturb_every", "–", "2"] in rows
    assert ["epsilon", "–", "0.5"] in rows
    assert "radius_schedule" not in {row[0] for row in rows}


@pytest.mark.usefixtures("undrawn")
def test_each_error_is_shown_once(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd",), seeds=(0, 1), epochs=1)
    for seed, confidence in ((0, 0.7), (1, 0.99999)):
        file = folder / f"sgd/seed-{seed}/result.json"
        content = json.loads(file.read_text())
        content["mistakes"] = [content["mistakes"][0] | {"index": 7, "confidence": confidence}]
        write_json(file, content)
    page, _ = report(folder)
    assert [image["alt"] for image in page.attributes("img")] == ["test image 7"]
    assert "99.99 %, seed 1" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", seeds=(0,), epochs=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_report(read_study([folder]), tmp_path / "file")


@pytest.mark.usefixtures("undrawn")
def test_what_was_not_measured_is_named_with_the_command(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "my study", seeds=range(3), epochs=2)
    page, markdown = report(folder)
    answered = [claim for claim in CLAIMS if not claim.measurement]
    assert [row[0].partition(" (")[0] for row in page.table("claim")[1:]] == [claim.text for claim in answered]
    command = f"flatnext evidence '{folder}' --measurements calibration errors flatness corruptions attacks"
    assert f"\n    {command}\n" in markdown
    assert command in page.text
    assert page.text.lower().count("not measured") == 1
    assert "STUDY" not in markdown


@pytest.mark.usefixtures("undrawn")
def test_few_attacked_images_have_an_interval_and_two_precisions_are_said(tmp_path: Path) -> None:
    def few(parts: dict[str, Any], seed: int) -> None:
        for attack in parts["attacks"]["result"]["attacks"]:
            attack |= {"count": 62, "robust_accuracy": 24 / 62}
            if attack["attack"] == "autoattack":
                attack["precision"] = "fp64"

    folder = small_study(tmp_path, evidence=("attacks",))
    study = edit_evidence(folder, few, ("sgd", "amp"))
    page, _ = report(folder)
    table = page.table("attack")
    pgd = dict(zip(table[0], next(row for row in table if row[0].startswith("pgd, L∞")), strict=True))
    interval = stats.binomtest(24, 62).proportion_ci(0.95, method="wilson")
    assert pgd["amp"] == f"38.71 ± 0.00 ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
    precisions = {row[0].split(",")[0]: row[table[0].index("precision")] for row in table[1:]}
    assert precisions["pgd"] != precisions["autoattack"] == "fp64"
    assert "not all measured in the same precision" in page.text
    assert study.select("attack.none")[0].precisions == [precisions["no attack (%)"]]


@pytest.mark.usefixtures("undrawn")
def test_runs_without_evidence_are_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=range(3), epochs=2, evidence=PARTS)
    (folder / "amp/seed-1/evidence.json").unlink()
    (folder / "sgd/seed-0/last.safetensors").write_bytes(b"other")
    page, _ = report(folder)
    assert "its weights have changed since it was measured: sgd/seed-0." in page.text
    missing = "calibration, errors, flatness, corruptions and attacks on sgd/seed-0 and amp/seed-1"
    assert f"Not measured: {missing}." in page.text


def test_numbers_stay_with_their_units() -> None:
    text = "(95 % interval, p < 0.001, 94.1 ± 0.2 %)"
    assert bound(text) == "(95\u00a0% interval, p\u00a0<\u00a00.001, 94.1\u00a0±\u00a00.2\u00a0%)"


def test_a_whole_study_takes_seconds(tmp_path: Path) -> None:
    folder = write_study(tmp_path, epochs=100)
    began = time.process_time()
    report(folder)
    assert time.process_time() - began < 10
