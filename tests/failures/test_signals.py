"""A termination signal, or Ctrl-C, at any moment ends a command soon, in a line, and it goes on later."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from fork_server import Child, ForkServer
from painted import RUN, paint, paint_data
from same_run import assert_same_run

from flatnext.runs.folder import RunFolder

slow = pytest.mark.slow

SECONDS = 10.0
"""In which a command ends, on a machine that has nothing else to do."""

EARLY = ("flatnext: interrupted", "flatnext: stopped before its first step was done")
"""The last line of a run that is stopped when there is nothing to go on from."""


@pytest.fixture(scope="module")
def place(server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, a finished run and an exported model."""
    folder = tmp_path_factory.mktemp("place")
    paint_data(folder / "data")
    for words in (
        [*RUN, "--data-dir", "data", "--output", "whole"],
        ["export", "whole", "--to", "onnx", "--output", "whole.onnx"],
    ):
        status, output = server.run(*words, log=folder / "log")
        assert status == 0, output
    return folder


def interrupted(child: Child, number: int = signal.SIGTERM, seconds: float = SECONDS) -> str:
    """Send a signal, check that the command ends as it should, and return its last line; it may have ended before."""
    child.send(number)
    status = child.wait(seconds * max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0))
    output = child.output()
    assert status is not None, f"it goes on: {output}"
    assert "Traceback" not in output, output
    if status == -number and not output:  # the signal came before the command did
        return ""
    assert status in (0, 130), (status, output)
    last = output.strip().splitlines()[-1]
    assert status == 0 or last.startswith("flatnext: "), output
    return last


def wait_for(child: Child, text: str, seconds: float = 120.0) -> None:
    """Wait until the command has printed something."""
    until = time.monotonic() + seconds
    while text not in child.output():
        assert child.status is None, child.output()
        assert time.monotonic() < until, child.output()
        child.server.look(0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has computed is read from /proc")
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=slow) for seed in range(2, 8))])
def test_a_run_that_is_stopped_again_and_again_ends_in_the_same_bits(
    server: ForkServer, place: Path, tmp_path: Path, seed: int
) -> None:
    draw, stops, runs = random.Random(seed), 0, 0
    while stops < 6:
        runs += 1
        run, status = tmp_path / f"run{runs}", None
        while status != 0:
            words = (
                ["train", "--resume", run] if run.exists() else [*RUN, "--data-dir", place / "data", "--output", run]
            )
            child = server.start(*words, log=tmp_path / "log")
            status = child.work(draw.uniform(0.02, 0.4))
            if status is None:
                last = interrupted(child, draw.choice((signal.SIGTERM, signal.SIGINT)))
                status = child.status
                stops += status == 130
                assert status == 0 or last in EARLY or f"--resume {run}" in last
                assert not run.exists() or (run / "config.json").exists()
                assert not run.exists() or not [path.name for path in run.iterdir() if path.suffix == ".tmp"]
            else:
                assert status == 0, child.output()
        assert_same_run(run, place / "whole")


SLOW_PICTURES = """
import time
import flatnext.data.images as images
read = images.read_picture
images.read_picture = lambda *a, **o: (print("reading", flush=True), time.sleep(0.05), read(*a, **o))[-1]
"""

ONE_BY_ONE = """
from flatnext.evaluation.predictor import Predictor
call, forward = Predictor.__call__, Predictor.forward
Predictor.__call__ = lambda self, images, batch_size=None, **o: call(self, images, 1, **o)
"""

LONG_EVALUATION = f"""
{ONE_BY_ONE}
import time
def slowly(self, inputs):
    print("evaluating", flush=True)
    time.sleep(0.3)
    return forward(self, inputs)
Predictor.forward = slowly
"""

COUNTED = """
import time
counted = []
"""

LONG_STEP = """
import time
from flatnext.training.step import Step
loss = Step._loss
def slowly(self, *arguments):
    print("a micro-batch", flush=True)
    counted.append(True)
    time.sleep(PAUSE)
    return loss(self, *arguments)
Step._loss = slowly
"""


def test_while_data_load(server: ForkServer, place: Path, tmp_path: Path) -> None:
    words = [*RUN, "--data-dir", paint(tmp_path / "many", 200), "--output", "run"]
    child = server.start(*words, log=tmp_path / "log", code=SLOW_PICTURES)
    wait_for(child, "reading\nreading\n")
    assert interrupted(child) == "flatnext: interrupted"
    assert not (tmp_path / "run").exists()


def test_in_an_evaluation_which_is_made_again(server: ForkServer, place: Path, tmp_path: Path) -> None:
    words = [*RUN, "--data-dir", place / "data", "--output", tmp_path / "run"]
    child = server.start(*words, log=tmp_path / "log", code=LONG_EVALUATION)
    wait_for(child, "evaluating")
    assert "stopped at step 2; go on with: " in interrupted(child, seconds=2)  # of six and more
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

    status, output = server.run("train", "--resume", tmp_path / "run", log=tmp_path / "log")
    assert status == 0, output
    assert_same_run(tmp_path / "run", place / "whole")


AT_THE_END = f"""
{LONG_EVALUATION}
from flatnext.training.trainer import Trainer
finish = Trainer._finish
Predictor.forward = forward
def slowly_finish(self):
    print("the end", flush=True)
    Predictor.forward = slowly
    return finish(self)
Trainer._finish = slowly_finish
"""


def test_in_the_last_evaluation(server: ForkServer, place: Path, tmp_path: Path) -> None:
    words = [*RUN, "--data-dir", place / "data", "--output"]
    status, output = server.run(*words, tmp_path / "whole", log=tmp_path / "log", code=ONE_BY_ONE)
    assert status == 0, output
    child = server.start(*words, tmp_path / "run", log=tmp_path / "log", code=AT_THE_END)
    wait_for(child, "the end\nevaluating")
    assert "stopped at step 4; go on with: " in interrupted(child)
    status, output = server.run("train", "--resume", tmp_path / "run", log=tmp_path / "log", code=ONE_BY_ONE)
    assert status == 0, output
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.fixture(scope="module")
def accumulated(server: ForkServer, place: Path) -> Path:
    """Return the folder of a run with ten micro-batches a step."""
    words = [*RUN, "--grad-accum-steps", 10, "--data-dir", "data", "--output", "accumulated"]
    status, output = server.run(*words, log=place / "log")
    assert status == 0, output
    return place / "accumulated"


@pytest.mark.parametrize("after", [4, 21, 24, 33, 37])
def test_between_the_micro_batches_of_a_long_step(
    server: ForkServer, place: Path, accumulated: Path, tmp_path: Path, after: int
) -> None:
    """Twenty a step: ten for the perturbation, and ten again at the perturbed weights."""
    words = [*RUN, "--grad-accum-steps", 10, "--data-dir", place / "data", "--output"]
    code = LONG_STEP.replace("PAUSE", f"0.2 if len(counted) > {after - 4} else 0.0").replace("import time", COUNTED)
    child = server.start(*words, tmp_path / "run", log=tmp_path / "log", code=code)
    until = time.monotonic() + 120
    while child.output().count("a micro-batch") < after:
        assert time.monotonic() < until, child.output()
        child.server.look(0.005)
    last = interrupted(child, seconds=1.5)  # the step takes four
    assert child.output().count("a micro-batch") <= after + 2
    if after < 20:
        assert last == "flatnext: stopped before its first step was done"
        assert not (tmp_path / "run").exists()
        return
    assert "stopped at step 1; go on with: " in last
    status, output = server.run("train", "--resume", tmp_path / "run", log=tmp_path / "log")
    assert status == 0, output
    assert_same_run(tmp_path / "run", accumulated)


SAVED = """
import time
from flatnext.training.run_state import RunState
saved, save = [], RunState.save
RunState.save = lambda self: (save(self), saved.append(True))[0]
"""


def test_a_second_ctrl_c_ends_at_once(server: ForkServer, place: Path, tmp_path: Path) -> None:
    words = [*RUN, "--data-dir", place / "data", "--output", tmp_path / "run"]
    code = LONG_STEP.replace("PAUSE", "3.0 if saved else 0.0").replace("import time", COUNTED + SAVED)
    child = server.start(*words, log=tmp_path / "log", code=code)
    wait_for(child, "epoch 1")  # there is a checkpoint
    before = child.output().count("a micro-batch")
    until = time.monotonic() + 60
    while child.output().count("a micro-batch") == before:
        assert child.status is None, child.output()
        assert time.monotonic() < until, child.output()
        child.server.look(0.005)
    child.send(signal.SIGINT)
    time.sleep(0.3)
    assert child.wait(0.0) is None  # it is in the step
    last = interrupted(child, signal.SIGINT, seconds=1)
    assert last == (
        "flatnext: ended at once; go on from the last checkpoint, if there is one, with: flatnext train --resume "
        f"{tmp_path / 'run'}"
    )
    status, output = server.run("train", "--resume", tmp_path / "run", log=tmp_path / "log")
    assert status == 0, output
    assert_same_run(tmp_path / "run", place / "whole")


STUDY = ["study", "--recipes", "quick", "quick-amp", "--seeds", 1, "--threads", 1, *RUN[3:], "--output", "s"]
TUNE = ["tune", "quick", "--vary", "lr=0.01..0.1", "--trials", 2, "--seeds", 2, *RUN[3:-2], "--output", "t"]
VERBS: dict[str, list[object]] = {
    "evidence": ["evidence", "whole", "--images", 12, "--overwrite"],
    "study": [*STUDY, "--data-dir", "data", "--jobs", 1],
    "tune": [*[word for word in TUNE if word not in ("--ema", 0.9)], "--data-dir", "data"],
    "predict": ["predict", "whole", "data/train", "data/test"],
    "onnx": ["export", "whole", "--to", "onnx", "--output", "new.onnx", "--overwrite"],
    "pack": ["pack", "whole", "--name", "tiny-folder-one", "--output", "packed", "--overwrite"],
    "rerun": ["rerun", "whole", "--overwrite"],
    "verify": ["verify", "whole"],
    "serve": ["serve", "whole.onnx", "--port", 0],
}


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has computed is read from /proc")
@pytest.mark.parametrize("part", [0.3, *(pytest.param(part, marks=slow) for part in (0.02, 0.1, 0.5, 0.7, 0.9))])
@pytest.mark.parametrize("verb", VERBS)
def test_every_command_ends_soon_and_does_its_work_after_it(
    server: ForkServer, place: Path, tmp_path: Path, verb: str, part: float
) -> None:
    words, folder = VERBS[verb], shutil.copytree(place, tmp_path / "place")
    child = server.start(*words, log=tmp_path / "log", cwd=folder)
    if verb == "serve" and part >= 0.3:  # it waits for requests, and computes no more
        wait_for(child, "serving whole")
    else:
        child.work(part)
    interrupted(child)
    assert not [path for path in folder.rglob(".*") if path.name not in (".lock",)]
    if verb == "serve":
        child = server.start(*words, log=tmp_path / "log-2", cwd=folder)
        wait_for(child, "serving whole")
        interrupted(child)
        return
    status, output = server.run(*words, log=tmp_path / "log", cwd=folder)
    assert status == 0, output


@pytest.mark.parametrize(
    ("when", "number"),
    [
        ("training", signal.SIGTERM),
        pytest.param("training", signal.SIGINT, marks=slow),
        pytest.param("early", signal.SIGTERM, marks=slow),
        pytest.param("measuring", signal.SIGTERM, marks=slow),
    ],
)
def test_a_study_of_several_at_a_time_stops_all_of_them(
    server: ForkServer, place: Path, tmp_path: Path, when: str, number: int
) -> None:
    words = [*STUDY, "--epochs", 60, "--data-dir", place / "data", "--jobs", "auto" if when == "measuring" else 2]
    child = server.start(*words, log=tmp_path / "log", cwd=tmp_path)
    runs = [tmp_path / "s" / recipe / "seed-0" for recipe in ("quick", "quick-amp")]
    if when == "training":
        until = time.monotonic() + 300
        while not all((run / "metrics.jsonl").exists() for run in runs):
            assert time.monotonic() < until, child.output()
            assert child.status is None, child.output()
            child.server.look(0.05)
    else:
        child.work(0.1)
        time.sleep(1.0)
    last = interrupted(child, number)
    assert child.status == 130
    if when == "training":
        assert "the same command goes on from there" in last
        assert all(RunFolder(run).started() and list(run.glob("state-*.pt")) for run in runs)
        assert not any((run / "result.json").exists() for run in runs)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob(".held"))
