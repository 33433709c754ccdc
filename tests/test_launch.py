"""What is taken from torchrun's variables, and what of them is ignored."""

from __future__ import annotations

import subprocess

import pytest

from flatnext import launch
from flatnext.errors import InputError
from flatnext.training import session

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch):
    """Return a function that sets torchrun's variables to these alone."""

    def put(**values):
        for name in (*launch.VARIABLES, "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "expected", "ignored"),
    [
        ({}, (0, 1), None),
        (TORCHRUN, (1, 4), None),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, (0, 1), None),
        ({"WORLD_SIZE": ""}, (0, 1), None),
        ({"WORLD_SIZE": "4"}, (0, 1), "WORLD_SIZE=4 in the environment ignored (RANK, MASTER_ADDR, MASTER_PORT"),
        ({"RANK": "3"}, (0, 1), "RANK=3 in the environment ignored"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, (0, 1), "(MASTER_ADDR, MASTER_PORT not set)"),
        ({"RANK": "x", "WORLD_SIZE": "four"}, (0, 1), "RANK=x WORLD_SIZE=four"),
        ({**TORCHRUN, "RANK": "4"}, (0, 1), "they do not fit together"),
    ],
)
def test_processes_are_several_only_where_all_variables_say_so(variables, values, expected, ignored):
    variables(**values)
    assert launch.rank_and_count() == expected
    assert launch.is_first() == (expected[0] == 0)
    line = launch.ignored()
    assert (line is None) == (ignored is None)
    assert ignored is None or ignored in line


def test_a_number_that_is_none_is_named(variables):
    variables(**{**TORCHRUN, "WORLD_SIZE": "four"})
    with pytest.raises(InputError, match="WORLD_SIZE is 'four' in the environment"):
        launch.rank_and_count()
    assert launch.is_first()


def test_a_restart_is_one_of_torchruns(variables):
    variables(TORCHELASTIC_RESTART_COUNT="1", TORCHELASTIC_RUN_ID="left")
    assert (launch.attempt(), launch.launch()) == (0, "")
    variables(**TORCHRUN, TORCHELASTIC_RESTART_COUNT="1", TORCHELASTIC_RUN_ID="left", LOCAL_RANK="1")
    assert (launch.attempt(), launch.launch(), launch.local_rank()) == (1, "left", 1)


def test_launches_that_torchrun_calls_alike_are_told_apart_by_the_process_that_started_them(variables, monkeypatch):
    variables(**TORCHRUN, TORCHELASTIC_RESTART_COUNT="1", TORCHELASTIC_RUN_ID="none")
    name = session._launch()
    assert session._launch() == name  # a restart has the same parent
    monkeypatch.setattr("os.getppid", lambda: 1)
    assert session._launch() != name
    variables(**TORCHRUN, TORCHELASTIC_RUN_ID="mine")
    assert session._launch() == "mine"


def test_a_process_takes_nothing_from_the_working_folder_and_needs_no_installation(tmp_path, monkeypatch):
    for name in ("numbers", "flatnext", "runpy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    interpreter, *rest = launch.python("flatnext.launch")
    assert subprocess.run([interpreter, "-S", *rest], check=False).returncode == 0  # -S: nothing that is installed
    done = subprocess.run(launch.python("flatnext", "--version"), check=True, capture_output=True, text=True)
    assert done.stdout.startswith("flatnext ")


def test_a_process_finds_what_the_environment_names(tmp_path, monkeypatch):
    (tmp_path / "numbers.py").write_text("raise SystemExit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert subprocess.run(launch.python("numbers"), check=False).returncode == 7
