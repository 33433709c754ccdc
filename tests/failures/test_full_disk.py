"""A disk that is full at any moment: it is said in one line, nothing is lost, and the same command goes on after it.

What may need space (files that are made, written, flushed, renamed or linked, and folders) is counted, and call after
call refused: six of them drawn at random, in the slow tests each.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import FROM_THEN_ON, IN_HALF, ONCE, full_disk
from fork_server import ForkServer
from painted import RUN, paint_data
from safetensors.torch import load_file
from same_run import assert_same_run

slow = pytest.mark.slow

DRAWN_CALLS = 6

DRAWN = """
import flatnext.report.drawing as drawing
import flatnext.report.write as report
drawing.render = lambda *_: "<svg></svg>"
report.files = lambda _: {"seeds.svg": b"one", "differences.svg": b"two"}
report.markdown = report.page = lambda _: "the text of a report"
"""
"""The report is written and not drawn, which takes a second."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(server: ForkServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    if not server.has_faults:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("trained")
    status, output = server.run(*RUN, "--keep-checkpoints", 1, *_places(data, "run"), log=folder / "log")
    assert status == 0, output
    return folder / "run"


def _places(data: Path, output: str) -> list[object]:
    return ["--data-dir", data, "--output", output]


def refused(
    server: ForkServer, place: Path, words: list[object], kind: int | None, before: Callable[[], None], also: str = ""
) -> Iterator[int]:
    """Run a command with the disk full at one call after another, after `before`; yield the call after each failure.

    It must end with status 2 and one line, or as ever: what is not needed may go missing. `kind` None draws six
    calls, and fails them once or in half.
    """

    def run(call: int, kind: int) -> tuple[int | None, list[str], int]:
        before()
        code = also + full_disk(place, call, kind)
        status, output = server.run(*words, log=place.parent / "log", code=code, cwd=place)
        *lines, calls = output.strip().splitlines()
        return status, lines, int(calls)

    status, lines, count = run(0, ONCE)
    assert status == 0, lines
    every = range(1, count + 1)
    drawn = every if kind is not None else sorted(random.Random(count).sample(every, min(count, DRAWN_CALLS)))
    for call in drawn:
        status, lines, _ = run(call, kind if kind is not None else (ONCE, IN_HALF)[call % 2])
        assert not any("Traceback" in line for line in lines), lines
        if status:
            said = [line for line in lines if "No space left on device" in line]
            assert (status, len(said)) == (2, 1), lines
            assert said[0].startswith("flatnext: error: cannot "), lines
            yield call


KINDS = [
    pytest.param(None, id="some"),
    *(pytest.param(kind, id=str(kind), marks=slow) for kind in (ONCE, FROM_THEN_ON, IN_HALF)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_says_so_and_goes_on_to_the_same_bits(
    server: ForkServer, data: Path, trained: Path, tmp_path: Path, kind: int | None
) -> None:
    (place := tmp_path / "disk").mkdir()
    words = [*RUN, "--keep-checkpoints", 1, *_places(data, "run")]
    failures = 0
    for _ in refused(server, place, words, kind, lambda: shutil.rmtree(place / "run", ignore_errors=True)):
        failures += 1
        folder = place / "run"
        again = ["train", "--resume", "run"] if (folder / "config.json").exists() else words
        status, output = server.run(*again, log=tmp_path / "log", cwd=place)
        assert status == 0, output
        assert_same_run(folder, trained)
        names = {path.relative_to(folder) for path in folder.rglob("*.safetensors")}
        assert names == {path.relative_to(trained) for path in trained.rglob("*.safetensors")}
    assert failures > (2 if kind is None else 40)


STUDY = [
    "study",
    "--recipes",
    "quick",
    "quick-amp",
    "--seeds",
    1,
    "--jobs",
    1,
    "--threads",
    1,
    *RUN[3:],
    "--output",
    "s",
]
ONE = "s/quick/seed-0"
VERBS: dict[str, list[object]] = {
    "study": [*STUDY, "--data-dir", "data"],
    "report": ["report", "s"],
    "evidence": ["evidence", ONE, "--measurements", "calibration", "errors"],
    "calibrate": ["calibrate", ONE, "--split", "test"],
    "pack": ["pack", ONE, "--name", "tiny-folder-one", "--output", "packed"],
    "onnx": ["export", ONE, "--to", "onnx", "--output", "exported/one.onnx", "--overwrite"],
    "int8": ["export", ONE, "--to", "onnx-int8", "--max-loss", 100, "--output", "one.onnx", "--overwrite"],
    "hub": ["export", ONE, "--to", "hub", "--output", "hub", "--overwrite"],
    "compare": ["compare", ONE, "s/quick-amp/seed-0", "--output", "page.html", "--overwrite"],
    "samples": ["data", "--dataset", "folder", "--data-dir", "data", "--samples", "samples.png"],
}


@pytest.fixture(scope="module")
def study(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data and a finished study."""
    if not server.has_faults:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("study")
    paint_data(folder / "data", 40)
    status, output = server.run(*VERBS["study"], log=folder / "log", code=DRAWN)
    assert status == 0, output
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_command_says_so_and_does_its_work_after_it(
    server: ForkServer, study: Path, tmp_path: Path, verb: str, kind: int | None
) -> None:
    words, place, expected = VERBS[verb], tmp_path / "disk", tmp_path / "expected"

    def fresh(folder: Path = place) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(study, folder, ignore=shutil.ignore_patterns("report.*", "figures", "*.csv", "log"))

    fresh(expected)
    status, output = server.run(*words, log=tmp_path / "log", cwd=expected, code=DRAWN)
    assert status == 0, output
    failures = 0
    for _ in refused(server, place, words, kind, fresh, DRAWN):
        failures += 1
        assert _hidden(place) == _hidden(study)
        for file in place.rglob("*.safetensors"):
            if (original := study / file.relative_to(place)).exists():
                assert load_file(file).keys() == load_file(original).keys()
        status, output = server.run(*words, log=tmp_path / "log", cwd=place, code=DRAWN)
        assert status == 0, output
        assert _names(place) == _names(expected)
    assert failures


def _names(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def _hidden(folder: Path) -> set[Path]:
    """Return what begins with a point: locks, and what is left of files that were being written."""
    return {path for path in _names(folder) if path.name.startswith(".") and path.name != ".lock"}
