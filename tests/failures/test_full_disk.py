"""A disk that is full at any moment: it is said in one line, nothing is lost, and the same command goes on after it.

What may need space (files that are made, written, flushed, renamed or linked, and folders) is counted, and call after
call refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fork_server import ForkServer
from full_disk import FROM_THEN_ON, IN_HALF, ONCE, code
from painted import RUN, paint_data
from same_run import assert_same_run

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(server: ForkServer, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    if not server.fills_disks:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("trained")
    status, output = server.run(*RUN, "--keep-checkpoints", 1, *_places(data, "run"), log=folder / "log")
    assert status == 0, output
    return folder / "run"


def _places(data: Path, output: str) -> list[object]:
    return ["--data-dir", data, "--output", output]


def refused(
    server: ForkServer, place: Path, words: list[object], kinds: Callable[[int], int], before: Callable[[], None]
) -> Iterator[int]:
    """Run a command with the disk full at its first call, at its second ... after `before`; yield after each failure.

    It must end with status 2 and one line, or as ever: what is not needed may go missing.
    """
    call = 0
    while True:
        call += 1
        before()
        status, output = server.run(*words, log=place.parent / "log", code=code(place, call, kinds(call)), cwd=place)
        *lines, calls = output.strip().splitlines()
        if int(calls) < call:
            assert status == 0, output
            return
        assert "Traceback" not in output, output
        if status:
            said = [line for line in lines if "No space left on device" in line]
            assert (status, len(said)) == (2, 1), output
            assert said[0].startswith("flatnext: error: cannot "), output
            assert said[0].count(";") == 1, output
            yield call


KINDS = [
    pytest.param(lambda call: (ONCE, IN_HALF)[call % 2], id="mixed"),
    *(pytest.param(lambda _, kind=kind: kind, id=str(kind), marks=slow) for kind in (ONCE, FROM_THEN_ON, IN_HALF)),
]


@pytest.mark.parametrize("kinds", KINDS)
def test_a_run_says_so_and_goes_on_to_the_same_bits(
    server: ForkServer, data: Path, trained: Path, tmp_path: Path, kinds: Callable[[int], int]
) -> None:
    (place := tmp_path / "disk").mkdir()
    words = [*RUN, "--keep-checkpoints", 1, *_places(data, "run")]
    failures = 0
    for _ in refused(server, place, words, kinds, lambda: shutil.rmtree(place / "run", ignore_errors=True)):
        failures += 1
        folder = place / "run"
        again = ["train", "--resume", "run"] if (folder / "config.json").exists() else words
        status, output = server.run(*again, log=tmp_path / "log", cwd=place)
        assert status == 0, output
        assert_same_run(folder, trained)
        names = {path.relative_to(folder) for path in folder.rglob("*.safetensors")}
        assert names == {path.relative_to(trained) for path in trained.rglob("*.safetensors")}
    assert failures > 40
