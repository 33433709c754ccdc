"""`flatnext predict`: files in, answers out, and what is said of files that are no pictures."""

import csv
import io
import json
import os
import sys
import types

import pytest
from fake_classifier import classifier, picture

from flatnext.deploy.answers import write_answers
from flatnext.deploy.prediction import Prediction, Question
from flatnext.runs.conformal import Conformal

MODEL = "flatnext.deploy.loading.load"


@pytest.fixture(autouse=True)
def model(monkeypatch):
    """Use the fake classifier as any model; sets at a coverage of 0.9 are those within a probability of 0.7."""
    conformal = Conformal.of([0.3] * 99, temperature=1.0, source="a test")
    monkeypatch.setattr(MODEL, lambda *_, **__: classifier(conformal=conformal))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for name, grey in {"a.png": 0, "b.JPG": 250, "more/c.png": 128, "more/d.png": 191}.items():
        picture(grey).save(folder / name)
    return folder


def lines(out):
    return [json.loads(line) for line in out.splitlines()]


def found(out):
    return {line["file"].rpartition("/")[2]: line["label"] for line in lines(out)}


def test_files_and_folders_give_a_line_each(run, pictures):
    status, out, err = run("predict", "m", pictures / "a.png", pictures)
    assert (status, err) == (0, "")
    answers = lines(out)
    assert [line["file"] for line in answers] == [
        str(pictures / name) for name in ("a.png", "a.png", "b.JPG", "more/c.png", "more/d.png")
    ]
    assert answers[0] == {"file": str(pictures / "a.png"), "label": "dark", "probability": 0.999955, "none": False}


def test_patterns_are_expanded_and_paths_that_exist_win(run, pictures):
    assert found(run("predict", "m", pictures / "**/*.png")[1]).keys() == {"a.png", "c.png", "d.png"}
    odd = pictures / "x[1].png"
    picture(0).save(odd)
    assert found(run("predict", "m", odd)[1]) == {"x[1].png": "dark"}


def test_what_cannot_be_read_is_named_and_the_others_are_answered(run, pictures):
    (pictures / "broken.png").write_bytes(b"nothing")
    status, out, err = run("predict", "m", pictures, pictures / "missing.png", "--batch-size", 2)
    assert status == 1
    assert set(found(out)) == {"a.png", "b.JPG", "c.png", "d.png"}
    assert [line.partition(": ")[2].rpartition("/")[2] for line in err.splitlines()[:2]] == [
        "broken.png: no image, or of an unknown format: skipped",
        "missing.png: missing: skipped",
    ]
    assert err.splitlines()[2:] == ["flatnext: 2 of 6 pictures could not be read"]


def test_files_of_a_folder_that_are_no_images_are_counted(run, pictures):
    (pictures / "notes.txt").write_text("no image")
    (pictures / ".hidden.png").write_bytes(b"")
    status, out, err = run("predict", "m", pictures)
    assert (status, len(lines(out))) == (0, 4)
    assert err.endswith("1 file is no image and is left out (notes.txt)\n")


@pytest.mark.parametrize("where", [".", "*.png"])
def test_nothing_to_do_is_an_error(run, where):
    status, out, err = run("predict", "m", where)
    assert (status, out) == (2, "")
    assert err == f"flatnext: error: {where}: no pictures there: give files, or a folder or pattern that has some\n"


def test_what_matches_nothing_beside_pictures_is_missing(run, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = run("predict", "m", "*.gif", pictures / "a.png", "empty")
    assert (status, list(found(out))) == (1, ["a.png"])
    assert err.splitlines() == [
        "flatnext: *.gif: missing: skipped",
        "flatnext: empty/*: missing: skipped",
        "flatnext: 2 of 3 pictures could not be read",
    ]


def stdin(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))


def test_paths_from_standard_input(run, pictures, monkeypatch):
    stdin(monkeypatch, b"\n".join(os.fsencode(path) for path in (pictures / "a.png", pictures / "b.JPG")) + b"\n\n")
    assert found(run("predict", "m", "-")[1]) == {"a.png": "dark", "b.JPG": "bright"}


@pytest.mark.parametrize("form", [b"%s\n%s\n", b"%s\r\n%s\r\n", b"\xef\xbb\xbf%s\n%s", b"%s\0%s\0"])
def test_lists_of_paths_in_other_forms_and_that_begin_like_an_image(run, pictures, monkeypatch, form):
    monkeypatch.chdir(pictures)
    (pictures / "a.png").rename("P1 7.png")
    stdin(monkeypatch, form % (b"P1 7.png", b"b.JPG"))
    assert found(run("predict", "m", "-")[1]) == {"P1 7.png": "dark", "b.JPG": "bright"}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_from_standard_input(run, monkeypatch, format):
    file = io.BytesIO()
    picture(250, 250, 250).save(file, format)
    stdin(monkeypatch, file.getvalue())
    status, out, _ = run("predict", "m", "-")
    assert (status, lines(out)[0]["file"], lines(out)[0]["label"]) == (0, "-", "bright")


def test_a_damaged_image_and_nothing_from_standard_input(run, monkeypatch):
    stdin(monkeypatch, b"\x89PNG\r\n\x1a\n\0\0\0")
    assert run("predict", "m", "-")[::2] == (
        1,
        "flatnext: -: no image, or of an unknown format: skipped\n",
    )
    stdin(monkeypatch, b"")
    assert run("predict", "m", "-")[0] == 2


def test_sets_thresholds_and_further_classes(run, pictures):
    _, out, _ = run("predict", "m", pictures / "more", "--coverage", "0.9", "--top", 2, "--threshold", 0.4)
    sure, unsure = lines(out)
    assert (sure["set"], sure["none"]) == (["middle"], False)
    assert (unsure["set"], unsure["none"]) == ([], True)
    assert sure["top"][0]["label"] == "middle"
    assert len(unsure["top"]) == 2
    _, out, _ = run("predict", "m", pictures / "more", "--threshold", 0.6)
    assert [line["none"] for line in lines(out)] == [False, True]


def test_csv(run, pictures):
    _, out, _ = run("predict", "m", pictures / "more", "--format", "csv", "--coverage", 0.9, "--top", 2)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert list(rows[0]) == ["file", "label", "probability", "none", "set", "label_2", "probability_2"]
    assert [rows[0][name] for name in ("label", "none", "set")] == ["middle", "false", "middle"]
    assert rows[1]["none"] == "true"
    assert rows[1]["set"] == ""


def test_csv_gives_names_back_as_they_are(capsys):
    names = ["shot 9.41\u202fAM.png", "\u8fd1\u6240\u3000\u732b.png", 'a,"b".png']
    label = "\u06af\u0631\u0628\u0647\u200c\u0647\u0627"
    answer = Prediction(label=label, probability=0.9, top=(), set=("x|y", "z"))
    write_answers(((name, answer) for name in [*names, "clear\x1b[2J.png"]), Question(coverage=0.9), "csv")
    *rows, last = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert [row["file"] for row in rows] == names
    assert {row["label"] for row in rows} == {label}
    assert rows[0]["set"] == "x\\|y|z"
    assert last["file"] == "clear\\x1b[2J.png"


def test_a_table(run, pictures, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run("predict", "m", pictures, "--format", "table", "--coverage", 0.9, "--top", 3)
    assert "set (0.9)" in out
    assert "none of these" in out
    row = next(line for line in out.splitlines() if "c.png" in line)
    assert row.split()[1:4] == ["middle", "100.0%", "middle"]


def test_names_that_would_control_the_terminal_are_escaped(run, tmp_path):
    name = "a\x1b[2J\n.png"
    picture(0).save(tmp_path / name)
    (tmp_path / "b\x1b.png").write_bytes(b"")
    for format in ("table", "csv", "jsonl"):
        _, out, err = run("predict", "m", tmp_path / name, tmp_path / "b\x1b.png", "--format", format)
        assert "\x1b" not in out + err
    assert lines(out)[0]["file"].endswith(name)
    undecodable = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    picture(0).save(undecodable)
    for format in ("table", "csv", "jsonl"):
        assert run("predict", "m", undecodable, "--format", format)[0] == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--coverage", "0.999"], "needs 999 calibration images"),
        (["--coverage", "95"], "give a number above 0 and below 1"),
        (["--top", "0"], "top is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_bad_flags_are_errors(run, pictures, flags, words):
    status, out, err = run("predict", "m", pictures, *flags)
    assert (status, out) == (2, "")
    assert words in err


def test_a_model_without_calibration_says_how_to_get_one(run, pictures, monkeypatch):
    monkeypatch.setattr(MODEL, lambda *_, **__: classifier())
    status, _, err = run("predict", "m", pictures, "--coverage", 0.9)
    assert status == 2
    assert "flatnext calibrate" in err
