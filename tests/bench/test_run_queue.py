"""The queue of runs behind the studies of docs/results.md."""

import importlib
import json
import shlex
import signal
import sys

import pytest
from places import REPOSITORY

KEPT = REPOSITORY / "docs" / "runs"


@pytest.fixture
def script(monkeypatch):
    """Return what imports a script of benchmarks."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    yield importlib.import_module
    for name in ("run_queue", "all_data", "little_data"):
        sys.modules.pop(name, None)


@pytest.fixture
def queue(tmp_path, monkeypatch, script):
    """Return a queue in a folder with a space in its name, whose runs are written at once; it notes their commands."""
    module = script("run_queue")
    calls = []

    def call(self, arguments, name):
        if arguments.startswith("evaluate"):
            return json.dumps({"accuracy": 1.0, "loss": 0.0, "count": 10})
        calls.append(arguments)
        run = self.folder / name
        run.mkdir(exist_ok=True)
        epochs = arguments.partition("--epochs ")[2].partition(" ")[0] or 1
        last = {"validation": {"accuracy": int(epochs) / 10}}
        (run / "config.json").write_text("{}")
        (run / "metrics.jsonl").write_text("")
        (run / "environment.json").write_text(
            json.dumps({"sessions": [{"command": shlex.join(["flatnext", *shlex.split(arguments)])}]})
        )
        (run / "result.json").write_text(json.dumps({"last": last, "best": None, "train_seconds": 1.0}))
        return ""

    monkeypatch.setattr(module.Queue, "call", call)
    made = module.Queue(tmp_path / "all runs", ".data")
    made.calls = calls
    return made


def test_a_run_is_made_once_and_the_best_is_by_validation(queue):
    assert queue.best([("a", "--epochs 1"), ("b", "--epochs 3"), ("c", "--epochs 2")]) == 1
    assert len(queue.calls) == 3
    assert queue.train("b", "--epochs 3")["train_as_it_is"]["count"] == 10
    assert len(queue.calls) == 3


@pytest.mark.parametrize("begun_only", [False, True])
def test_a_run_with_other_flags_is_not_taken_for_it(queue, begun_only):
    queue.train("a", "--epochs 1")
    if begun_only:
        (queue.folder / "a.json").unlink()
        (queue.folder / "a" / "environment.json").write_text(
            json.dumps({"sessions": [{"command": "flatnext train --epochs 1 --output a"}]})
        )
    with pytest.raises(SystemExit, match=r"a was made by .*--epochs 1.* and not with '--epochs 11': move it away"):
        queue.train("a", "--epochs 11")


def test_a_run_that_has_begun_goes_on(queue):
    queue.train("a", "--epochs 1 --seed 2")
    (queue.folder / "a.json").unlink()
    queue.train("a", " --seed 2  --epochs 1")
    assert queue.calls[1] == f"train --resume '{queue.folder / 'a'}'"


@pytest.fixture
def called(script, monkeypatch):
    """Return the commands that a queue would run, by the name of the run; each ends the script."""
    calls = {}

    def call(self, arguments, name):
        calls[name] = arguments
        raise KeyboardInterrupt

    monkeypatch.setattr(script("run_queue").Queue, "call", call)
    return calls


def test_the_kept_runs_of_all_the_data_are_taken_as_done(script, called, tmp_path, monkeypatch):
    kept = {file.stem for file in (KEPT / "all-data").glob("*.json")}
    monkeypatch.setattr(sys, "argv", ["all_data.py", str(tmp_path), "--precision", "bf16"])
    try:
        script("all_data").main()
    except KeyboardInterrupt:
        assert called.keys().isdisjoint(kept)
    assert len(kept) >= 9


def test_the_kept_runs_of_little_data_are_taken_as_done(script, called, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["little_data.py", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        script("little_data").main()
    assert list(called) == ["study"]  # which finds its runs finished
    assert "--recipes" in called["study"]
    assert len(list(tmp_path.glob("study/*/*/result.json"))) == 30
