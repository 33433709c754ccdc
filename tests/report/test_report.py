"""The report as HTML and as Markdown, from made-up studies."""

import html
import json
import re
import shutil
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_study import CLASSES, write_json, write_run, write_study

from flatnext.config import METHODS, Amp, recipe
from flatnext.durations import duration
from flatnext.errors import InputError
from flatnext.report import figures, write_report
from flatnext.report.blocks import Panel
from flatnext.report.markdown import escape
from flatnext.report.page import bound
from flatnext.study.table import read_study, setting_text


class Page(HTMLParser):
    """The page's text, tables, ids and what it refers to, and whether its elements are closed."""

    VOID = ("meta", "link", "img", "br", "path", "use", "image", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ").strip()

    def table(self, corner: str) -> list[list[str]]:
        return next(table for table in self.tables if table[0] and table[0][0] == corner)


def report(folder: Path) -> tuple[Page, str]:
    """Write the report of a study folder into it; return the page and the Markdown."""
    write_report(read_study([folder]), folder)
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page, (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"), seeds=(0, 1, 2), epochs=4)


@pytest.fixture(scope="module")
def pair(study: Path) -> tuple[Page, str]:
    return report(study)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, for tests that look at the text alone: drawing takes nearly all of a report's time."""

    def panel(name: str, alt: str, *_: object, **__: object) -> Panel:
        return Panel(name, alt, f'<svg role="img"><title>{html.escape(alt)}</title></svg>')

    monkeypatch.setattr(figures, "panel", panel)


def test_the_verdict_comes_first(study: Path, pair: tuple[Page, str]) -> None:
    page, markdown = pair
    (sentence,) = read_study([study]).verdict
    assert sentence.startswith("amp is better than sgd by")
    assert page.text.index(sentence) < page.text.index("Comparison")
    assert markdown.startswith(f"# sgd and amp on CIFAR-10\n\n**{escape(sentence)}**\n")


def test_both_forms_hold_the_same_tables(pair: tuple[Page, str]) -> None:
    page, markdown = pair
    for table in page.tables:
        for row in table:
            assert f"| {' | '.join(map(escape, row))} |" in markdown


def test_the_table_is_the_runs(study: Path, pair: tuple[Page, str]) -> None:
    page, _ = pair
    results = [json.loads((study / f"amp/seed-{seed}/result.json").read_text()) for seed in range(3)]
    accuracies = [100 * result["last"]["test"]["accuracy"] for result in results]
    losses = [result["last"]["test"]["loss"] for result in results]
    row = next(row for row in page.table("recipe") if row[0] == "amp")
    assert row[1:3] == ["3", f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}"]
    assert row[4] == f"{np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}"


def test_classes_and_confusions_are_the_runs(study: Path, pair: tuple[Page, str]) -> None:
    page, _ = pair
    results = [json.loads((study / f"sgd/seed-{seed}/result.json").read_text()) for seed in range(3)]
    matrices = np.array([result["last"]["test"]["confusion"] for result in results])
    shown = [[int(cell) for cell in row[1:]] for row in page.table("true class")[1:]]
    assert np.array_equal(shown, matrices.sum(axis=0))
    recall = matrices[:, 3, 3] / matrices[:, 3].sum(axis=1)
    cat = next(row for row in page.table("class") if row[0] == "cat")
    assert cat[1] == f"{100 * recall.mean():.2f}"


def test_cost_is_against_the_baseline(pair: tuple[Page, str]) -> None:
    page, _ = pair
    table = next(table for table in page.tables if "seconds an epoch" in table[0])
    sgd, amp = table[1:]
    assert sgd[3] == "1.00"
    assert float(amp[3]) == pytest.approx(930 / 480, abs=0.05)


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


def test_pictures_and_figures_have_words(pair: tuple[Page, str]) -> None:
    page, _ = pair
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    figures_ = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(images) == 24
    assert len(figures_) == 8
    assert all(image["alt"] for image in images)
    assert all(figure["role"] == "img" and figure["aria-labelledby"] for figure in figures_)


def test_figures_follow_the_theme(study: Path, pair: tuple[Page, str]) -> None:
    text = (study / "report.html").read_text(encoding="utf-8")
    colors = set(re.findall(r"(?:fill|stroke): (#\w+)", text))
    assert colors == set()
    assert "var(--series-0)" in text
    for file in (study / "figures").glob("*.svg"):
        element = ET.parse(file).getroot()
        assert "prefers-color-scheme: dark" in "".join(element.itertext())


def test_markdown_shows_files_that_are_there(study: Path, pair: tuple[Page, str]) -> None:
    _, markdown = pair
    named = set(re.findall(r"\]\(([^)]*)\)", markdown))
    there = {f"figures/{file.name}" for file in (study / "figures").iterdir()}
    assert named == there
    assert all((study / name).read_bytes().startswith(b"\x89PNG") for name in named if name.endswith("png"))


def test_the_same_runs_give_the_same_bytes(study: Path, pair: tuple[Page, str], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(study, copy, ignore=shutil.ignore_patterns("report.*", "figures"))
    report(copy)
    written = sorted(file.relative_to(study) for file in study.rglob("*") if file.is_file())
    assert written == sorted(file.relative_to(copy) for file in copy.rglob("*") if file.is_file())
    assert [name for name in written if (study / name).read_bytes() != (copy / name).read_bytes()] == []


def test_a_deleted_run_changes_tables_and_curves(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1, 2), epochs=3)
    before, _ = report(folder)
    curve = (folder / "figures/curves-1-loss.svg").read_bytes()
    shutil.rmtree(folder / "amp/seed-1")
    after, _ = report(folder)
    assert [row[1] for row in before.table("recipe")[1:]] == ["3", "3"]
    assert [row[1] for row in after.table("recipe")[1:]] == ["3", "2"]
    assert curve != (folder / "figures/curves-1-loss.svg").read_bytes()
    assert "amp/seed-1" in after.text
    assert "1 run is not in the statistics" in after.text


def test_curves_are_means_of_the_metrics(study: Path) -> None:
    group = read_study([study]).groups[1]
    lines = [(study / f"amp/seed-{seed}/metrics.jsonl").read_text().splitlines() for seed in range(3)]
    values = np.array([[json.loads(line)["test_loss"] for line in run] for run in lines])
    epochs, mean, low, high = figures.curve(group, "test_loss") or ()
    assert list(epochs) == [1, 2, 3, 4]
    assert np.allclose([mean, low, high], [values.mean(0), values.min(0), values.max(0)])


def test_an_early_outlier_does_not_flatten_the_loss(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0,), epochs=4)
    file = folder / "sgd/seed-0/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["test_loss"] = 1e10
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = read_study([folder])
    for group in study.groups:
        loss, _ = figures.recipe_curves(study, group)
        ticks = [float(number) for number in re.findall(r">([\d.]+)</text>", loss.svg)]
        assert 1 < max(ticks) <= 4


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
    page, markdown = report(write_study(tmp_path, seeds=(4,), epochs=1))
    assert "no statement about chance is possible" in page.text
    assert "±" not in " ".join(cell for table in page.tables[:3] for row in table for cell in row)
    assert "nan" not in markdown.lower().split()


@pytest.mark.usefixtures("undrawn")
def test_without_validation_there_is_no_best_epoch(tmp_path: Path) -> None:
    page, _ = report(write_study(tmp_path, seeds=(0, 1), epochs=2, validation=False))
    assert "There was no validation split" in page.text
    assert sum(table[0][:1] == ["recipe"] for table in page.tables if table[0]) == 2  # last epoch, and cost


@pytest.mark.usefixtures("undrawn")
def test_without_test_curves_validation_is_drawn(tmp_path: Path) -> None:
    page, _ = report(write_study(tmp_path, seeds=(0, 1), epochs=2, test_curve=False))
    assert "in training and on the validation split" in page.text
    assert "in training and on the test set" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_without_any_metrics_there_are_no_curves(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0,), epochs=1)
    for file in folder.rglob("metrics.jsonl"):
        file.write_text("")
    page, _ = report(folder)
    assert "no curves to draw" in page.text


def test_a_recipe_without_metrics_is_left_out_of_the_curves(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd", "amp", "report-amp"), seeds=(0,), epochs=2)
    (folder / "amp/seed-0/metrics.jsonl").write_text("")
    page, _ = report(folder)  # matplotlib warns of an empty legend, and a warning fails the tests
    assert "Not drawn, since its runs hold no metrics: amp." in page.text
    assert "loss by epoch of sgd, report-amp, in training and on the test set" in page.text
    curves = {file.name for file in (folder / "figures").glob("curves-*-loss.svg")}
    assert curves == {"curves-all-loss.svg", "curves-0-loss.svg", "curves-2-loss.svg"}


def test_without_any_held_out_curve_training_is_drawn(tmp_path: Path) -> None:
    page, _ = report(write_study(tmp_path, seeds=(0,), epochs=2, test_curve=False, validation=False))
    assert "loss by epoch of sgd, amp, in training" in page.text
    assert "in training and on" not in page.text
    assert "sgd, training" in (tmp_path / "figures/curves-all-loss.svg").read_text(encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
def test_failed_runs_are_listed(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    config = replace(recipe("amp"), seed=2)
    write_run(folder / "amp/seed-2", config, finished=False, error="loss is nan at step <7> | try a lower rate")
    page, markdown = report(folder)
    assert ["amp/seed-2", "failed after 4 of 8 epochs: loss is nan at step <7> | try a lower rate"] in page.tables[-1]
    assert r"step &lt;7&gt; \| try" in markdown


def test_nothing_finished_is_a_report_too(tmp_path: Path) -> None:
    write_run(tmp_path / "run", recipe("sgd"), finished=False)
    page, _ = report(tmp_path)
    assert "No run has finished" in page.text
    assert "unfinished: 4 of 8 epochs" in page.text


@pytest.mark.usefixtures("undrawn")
def test_three_recipes_are_corrected_for_two_comparisons(tmp_path: Path) -> None:
    page, _ = report(write_study(tmp_path, recipes=("sgd", "amp", "report-amp"), seeds=(0, 1, 2), epochs=2))
    assert page.text.count("after Holm's correction for 2 comparisons") == 2
    table = page.table("recipes")
    assert table[0][-1] == "p, t-test, Holm"
    assert [row[0] for row in table[1:]] == ["amp − sgd", "report-amp − sgd"]
    assert "the comparison is of recipes, not of methods alone" in page.text


def test_a_hundred_classes_stay_usable(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(100)]
    page, _ = report(write_study(tmp_path, seeds=(0, 1), epochs=2, classes=classes))
    assert max(len(row) for table in page.tables for row in table) < 12
    assert (tmp_path / "figures/confusion-1.svg").exists()
    errors = page.table("error")
    assert len(errors) == 16
    assert [float(row[2]) for row in errors[1:]] == sorted((float(row[2]) for row in errors[1:]), reverse=True)


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
    assert "<b>" not in text
    assert "<script" not in text
    assert "<i>" not in text
    assert [row[0] for row in page.table("class")[1:6]] == classes[:5]
    assert "flatnext train <i>" in page.text
    assert ["device", "chip <i>"] in page.table("seeds")
    rendered = re.sub(r"(?m)^    .*$", "", markdown)  # all but code
    assert not re.search(r"<(?!/?(details|summary)>)", rendered)
    assert r"| a\|b |" in markdown
    for file in (tmp_path / "figures").glob("*.svg"):
        ET.parse(file)


@pytest.mark.usefixtures("undrawn")
def test_a_subset_is_said_plainly(tmp_path: Path) -> None:
    for name in ("sgd", "amp"):
        config = recipe(name)
        config = replace(config, data=replace(config.data, train_images=2000))
        write_run(tmp_path / name, config, epochs=2)
    page, markdown = report(tmp_path)
    assert "Trained on a subset of CIFAR-10: 2,000 images." in page.text
    assert "Trained on a subset of CIFAR-10: 2,000 images." in markdown
    assert "flatnext train --recipe sgd --seed 0" in page.text


@pytest.mark.usefixtures("undrawn")
def test_machines_that_differ_are_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0, 1), epochs=2)
    file = folder / "amp/seed-0/environment.json"
    content = json.loads(file.read_text()) | {"precision": "fp32"}
    content["sessions"].append(content["sessions"][0] | {"torch": "2.9.0", "device_name": "NVIDIA H200", "threads": 8})
    write_json(file, content)
    page, _ = report(folder)
    assert "not all made with the same device, precision and version of torch" in page.text
    rows = {row[0]: row[1] for row in page.table("seeds")}
    assert rows["torch"] == "2.13.0+cpu (3 of 4 runs); 2.13.0+cpu, 2.9.0 (1 of 4 runs)"
    assert rows["device"] == "AMD EPYC (3 of 4 runs); AMD EPYC, NVIDIA H200 (1 of 4 runs)"
    assert rows["threads"] == "2 (3 of 4 runs); 2, 8 (1 of 4 runs)"
    assert rows["precision"] == "bf16 (3 of 4 runs); fp32 (1 of 4 runs)"
    assert "processes" not in rows


@pytest.mark.usefixtures("undrawn")
def test_a_machine_that_a_run_left_is_said_though_all_runs_did(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd",), seeds=(0,), epochs=2)
    file = folder / "sgd/seed-0/environment.json"
    content = json.loads(file.read_text())
    content["sessions"] += [content["sessions"][0] | {"processes": 4}, content["sessions"][0] | {"processes": 2}]
    write_json(file, content)
    page, _ = report(folder)
    assert ["processes", "1, 4, 2"] in page.table("seeds")


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
    page, markdown = report(folder)
    sgd, amp = page.table("recipe")[1:]
    assert amp[4] == "–"
    assert amp[1] == "3"
    assert "±" in amp[2]
    assert "±" in sgd[4]
    assert "A dash in place of a test loss" in markdown


@pytest.mark.usefixtures("undrawn")
def test_recipes_with_the_same_settings_are_said(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", replace(recipe("sgd"), seed=seed), epochs=2)
        write_run(tmp_path / f"b-{seed}", replace(recipe("sgd"), recipe="again", seed=seed), epochs=2)
    page, _ = report(tmp_path)
    assert "The recipes have the same settings." in page.text
    assert "differ in the method" not in page.text


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
    assert (common["interval"], common["radius_schedule"], common["m_sharpness"]) == ("1", "constant", "no")
    assert "The recipes differ in the method and its settings alone." in page.text


@pytest.mark.usefixtures("undrawn")
def test_settings_that_are_not_at_their_default_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "sgd", recipe("sgd"), epochs=1)
    write_run(tmp_path / "amp", replace(recipe("amp"), method=Amp(perturb_every=2)), epochs=1)
    page, _ = report(tmp_path)
    rows = page.table("setting")
    assert rows[0] == ["setting", "sgd", "amp"]
    assert ["interval", "–", "2"] in rows
    assert ["epsilon", "–", "0.5"] in rows
    assert "radius_schedule" not in {row[0] for row in rows}


@pytest.mark.usefixtures("undrawn")
def test_the_surest_mistakes_are_shown_once_each(tmp_path: Path) -> None:
    folder = write_study(tmp_path, recipes=("sgd",), seeds=(0, 1), epochs=1)
    for seed, confidence in ((0, 0.7), (1, 0.99999)):
        file = folder / f"sgd/seed-{seed}/result.json"
        content = json.loads(file.read_text())
        content["mistakes"] = [content["mistakes"][0] | {"index": 7, "confidence": confidence}]
        write_json(file, content)
    page, _ = report(folder)
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == ["test image 7"]
    assert "99.99 %, seed 1" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", seeds=(0,), epochs=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        write_report(read_study([folder]), tmp_path / "file")


def test_numbers_stay_with_their_units() -> None:
    assert (
        bound("(95 % interval, p < 0.001, 94.1 ± 0.2 %)")
        == "(95\u00a0% interval, p\u00a0<\u00a00.001, 94.1\u00a0±\u00a00.2\u00a0%)"
    )


def test_times_are_short() -> None:
    seconds = (0, 4.24, 9.96, 45, 59.7, 750, 3599.6, 11_100)
    shown = ["0.0 s", "4.2 s", "10 s", "45 s", "1 min 00 s", "12 min 30 s", "1 h 00 min", "3 h 05 min"]
    assert [duration(value) for value in seconds] == shown


def test_a_whole_study_takes_seconds(tmp_path: Path) -> None:
    folder = write_study(tmp_path, epochs=100)
    began = time.process_time()
    report(folder)
    assert time.process_time() - began < 10
