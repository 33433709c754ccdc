"""The queue of runs behind the studies of docs/results.md."""

import importlib.util
import json
import signal
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "run_queue.py"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Return a queue in a folder with a space in its name, whose runs are written at once; it notes their commands."""
    spec = importlib.util.spec_from_file_location("run_queue", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    calls = []

    def call(self, arguments, name):
        calls.append(arguments)
        if arguments.startswith("evaluate"):
            return json.dumps({"accuracy": 1.0, "loss": 0.0, "count": 10})
        run = self.folder / name
        run.mkdir(exist_ok=True)
        epochs = arguments.partition("--epochs ")[2].partition(" ")[0] or 1
        last = {"validation": {"accuracy": int(epochs) / 10}}
        (run / "config.json").write_text("{}")
        (run / "metrics.jsonl").write_text("")
        (run / "environment.json").write_text(json.dumps({"sessions": [{"command": f"flatnext {arguments}"}]}))
        (run / "result.json").write_text(json.dumps({"last": last, "best": None, "train_seconds": 1.0}))
        return ""

    monkeypatch.setattr(module.Queue, "call", call)
    made = module.Queue(tmp_path / "all runs", ".data")
    made.calls = calls
    return made


def test_a_run_is_made_once_and_the_best_is_by_validation(queue):
    assert queue.best([("a", "--epochs 1"), ("b", "--epochs 3"), ("c", "--epochs 2")]) == 1
    assert len(queue.calls) == 6
    assert queue.train("b", "--epochs 3")["train_as_it_is"]["count"] == 10
    assert len(queue.calls) == 6


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
    queue.train("a", "--epochs 1")
    (queue.folder / "a.json").unlink()
    (queue.folder / "a" / "environment.json").write_text(
        json.dumps({"sessions": [{"command": "flatnext train --epochs 1 --output a --data-dir .data"}]})
    )
    queue.train("a", "--epochs 1")
    assert queue.calls[2] == f"train --resume '{queue.folder / 'a'}'"
