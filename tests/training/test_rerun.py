"""A run made again is the same to the bit, and what differs is said."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
from safetensors import safe_open
from tiny import tiny

from flatnext.cli import main
from flatnext.errors import InputError
from flatnext.training import train
from flatnext.training.rerun import rerun


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny("quick-amp", precision="auto"), folder, track=())
    return folder


def test_a_run_made_again_is_the_same_to_the_bit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert main(["rerun", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("the same to the bit: ")
    assert lines[1] == f"{run}-rerun"
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert main(["rerun", str(run)]) == 2  # it would train nothing
    assert f"{run}-rerun holds a finished run: choose another" in capsys.readouterr().err


def test_what_differs_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    train(tiny("quick-amp", precision="auto"), other, track=())
    with safe_open(other / "last.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["conv1.weight"][0, 0, 0, 0] += 0.5
    safetensors.torch.save_file(tensors, other / "last.safetensors", metadata)
    assert main(["rerun", str(other)]) == 1
    output = capsys.readouterr().out
    assert f"1 of {len(tensors)} tensors differ, by at most 0.5" in output
    assert "epochs with other metrics: none" in output


def test_what_cannot_be_made_again_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty: give the folder of a run"):
        rerun(tmp_path)
    (tmp_path / "half").mkdir()
    for name in ("config.json", "environment.json", "metrics.jsonl"):
        (tmp_path / "half" / name).write_bytes((run / name).read_bytes())
    with pytest.raises(InputError, match="is unfinished: 2 of 2 epochs: finish it first"):
        rerun(tmp_path / "half")
    processes = shutil.copytree(run, tmp_path / "two")
    environment = json.loads((run / "environment.json").read_text())
    alone = environment["sessions"][0]  # the last session, of one process, trained the last step only
    environment["sessions"] = [{**alone, "processes": 2}, {**alone, "from_step": 7}]
    (processes / "environment.json").write_text(json.dumps(environment))
    with pytest.raises(InputError, match="was made by 2 processes: make it again by torchrun, with --config"):
        rerun(processes)
    assert not (tmp_path / "two-rerun").exists()


def test_sessions_that_were_not_alike_are_said(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved")
    environment = json.loads((run / "environment.json").read_text())
    last = environment["sessions"][0]
    first = {**last, "device_name": "another chip", "threads": 7}
    environment["sessions"] = [{**first, "threads": 9}, first, {**last, "from_step": 5}]  # the first took no step
    (moved / "environment.json").write_text(json.dumps(environment))
    assert rerun(moved).circumstances == (
        f"device_name another chip and {last['device_name']} in its sessions",
        f"threads 7 and {last['threads']} in its sessions",
    )
