"""A study on a cluster of Ray of two nodes. By hand: `python -m pytest -m ray tests/study/test_ray.py` with Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from said import Said
from tiny import tiny

from flatnext.errors import InputError
from flatnext.runs.folder import RunFolder
from flatnext.runs.reading import read_environment
from flatnext.study.plan import RunPlan, make_plan
from flatnext.study.ray_cluster import Board, Cluster
from flatnext.study.runner import run_study
from flatnext.training import Stopped

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
clusters = pytest.importorskip("ray.cluster_utils", reason="needs Ray")
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800), pytest.mark.filterwarnings("default")]


EPOCHS = 60
"""So many that both nodes have a run at the same time, however long Ray takes to begin the second."""


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one CPU."""
    cluster = clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def plan(seeds: int = 2) -> RunPlan:
    return make_plan([tiny("quick", epochs=EPOCHS), tiny("quick-amp", epochs=EPOCHS)], seeds)


def under_way(study: Path) -> list[Path]:
    """Return the runs that have done five epochs and have not finished."""
    runs = [file.parent for file in study.glob("*/*/metrics.jsonl") if not (file.parent / "result.json").exists()]
    return [run for run in runs if len(RunFolder(run).epochs()) >= 5]


def kill_node(node: Any) -> None:
    """Do what the end of a machine does: its raylet and all that this has started end without a word."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", f"{raylet}"], capture_output=True, text=True, check=True)
    for pid in (raylet, *map(int, children.stdout.split())):
        os.kill(pid, signal.SIGKILL)


def when(condition: Callable[[], bool], action: Callable[[], object]) -> threading.Thread:
    def watch() -> None:
        until = time.monotonic() + 300
        while not condition() and time.monotonic() < until:
            time.sleep(0.1)
        action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def require_same(ours: Path, theirs: Path, count: int = 4) -> None:
    runs = sorted(path.parent.relative_to(ours) for path in ours.glob("*/*/result.json"))
    assert len(runs) == count
    for run in runs:
        mine, other = (load_file(folder / run / "last.safetensors") for folder in (ours, theirs))
        assert mine.keys() == other.keys()
        assert all((mine[name] == value).all() for name, value in other.items())
        assert RunFolder(ours / run).result().last == RunFolder(theirs / run).result().last
        assert RunFolder(ours / run).result().best == RunFolder(theirs / run).result().best


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs on this machine."""
    folder = tmp_path_factory.mktemp("local")
    assert run_study(plan(), folder, threads=1, device="cpu") == []
    return folder


@pytest.mark.parametrize("where", ["shared", "storage"])
def test_a_node_is_killed_and_the_figures_are_those_of_one_machine(
    cluster: Any, local: Path, tmp_path: Path, where: str
) -> None:
    node, said = cluster.add_node(num_cpus=1), Said()
    storage = None if where == "shared" else f"file://{tmp_path / 'storage'}"
    seen = tmp_path / "study" if storage is None else tmp_path / "storage"
    kill = when(lambda: len(under_way(seen)) == 2, lambda: kill_node(node))
    there = Cluster(address=cluster.address, storage=storage)
    failures = run_study(plan(), tmp_path / "study", cluster=there, jobs="auto", threads=1, device="cpu", display=said)
    assert failures == []
    assert not kill.is_alive()
    assert sum("again from its last checkpoint (1 of 3 times)" in line for line in said.lines) == 1, said.lines
    require_same(tmp_path / "study", local)
    sessions = [
        [session.from_step for session in read_environment(file).sessions]
        for file in (tmp_path / "study").glob("*/*/environment.json")
    ]
    assert sorted(map(len, sessions)) == [1, 1, 1, 2]
    assert max(steps[-1] for steps in sessions) >= 20  # five epochs of four steps, from the checkpoint
    if storage is not None:  # another head, which has nothing yet
        assert run_study(plan(), tmp_path / "other", cluster=there, jobs="auto", device="cpu") == []
        require_same(tmp_path / "other", local)


def test_a_study_is_stopped_and_goes_on_from_another_head(cluster: Any, local: Path, tmp_path: Path) -> None:
    there = Cluster(address=cluster.address, storage=f"file://{tmp_path / 'storage'}")
    arguments = {"cluster": there, "jobs": "auto", "threads": 1, "device": "cpu"}
    when(
        lambda: bool(under_way(tmp_path / "storage")),
        lambda: os.kill(os.getpid(), signal.SIGINT),
    )
    with pytest.raises(Stopped, match="the same command goes on"):
        run_study(plan(1), tmp_path / "one", **arguments)
    stopped = under_way(tmp_path / "storage")
    assert stopped
    for run in stopped:
        here = tmp_path / "one" / run.relative_to(tmp_path / "storage")
        assert {file.name for file in run.glob("*.pt")} == {file.name for file in here.glob("*.pt")} != set()
    assert run_study(plan(1), tmp_path / "two", **arguments) == []
    require_same(tmp_path / "two", local, 2)


def test_what_cannot_be_retried_or_reached(cluster: Any, tmp_path: Path) -> None:
    said = Said()
    diverging = make_plan([tiny("quick", learning_rate=1e30, epochs=1), tiny("quick-amp", epochs=1)], 1)
    there = Cluster(address=cluster.address)
    failures = run_study(diverging, tmp_path / "study", cluster=there, jobs=1, device="cpu", display=said)
    assert len(failures) == 1
    assert "the loss is not finite" in failures[0]
    assert not any("again" in line for line in said.lines)
    assert RunFolder(tmp_path / "study" / "quick-amp" / "seed-0").finished()
    with pytest.raises(InputError, match="does not see this study at memory://"):
        run_study(
            diverging, tmp_path / "other", cluster=Cluster(address=cluster.address, storage="memory://x"), device="cpu"
        )
    with pytest.raises(InputError, match="no cluster of Ray answers at"):
        run_study(diverging, tmp_path / "third", cluster=Cluster(address="127.0.0.1:9"), device="cpu")


def test_the_board_keeps_the_last_of_how_far_a_run_is() -> None:
    board = Board()
    for part in (0.1, 0.2):
        board.post("a", {"say": f"{part}"})
        board.post("a", {"show": [part, ""]})
    board.post("b", {"show": [0.5, ""]})
    assert [message for _, message in board.take()] == [
        {"say": "0.1"},
        {"say": "0.2"},
        {"show": [0.2, ""]},
        {"show": [0.5, ""]},
    ]
    assert board.take() == []
