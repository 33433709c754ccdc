"""Runs on storage: copies that are whole at every moment, and one process at work on them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import fsspec
import pytest
from tiny import AtStep, tiny

from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.runs.folder import RunFolder
from flatnext.schema import dump
from flatnext.study import presence
from flatnext.study.assignment import Assignment, carry_out
from flatnext.study.exchange import kept_on
from flatnext.study.plan import make_plan
from flatnext.study.presence import at_work, is_at_work
from flatnext.study.ray_node import Order, make_run
from flatnext.study.runner import run_study
from flatnext.study.storage import Storage, StorageError
from flatnext.training import Stopped, train
from flatnext.training.checkpoint import read_checkpoint
from flatnext.versions import version_of


@pytest.fixture(params=["path", "memory://"])
def storage(request, tmp_path: Path) -> Storage:
    if request.param == "memory://":
        fsspec.filesystem("memory").store.clear()
        return Storage("memory://bucket/study")
    return Storage(str(tmp_path / "storage"))


def files(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not path.name.startswith(".")}


def on(storage: Storage, name: str) -> dict[str, bytes | None]:
    return {relative: storage.read(f"{name}/{relative}") for relative in storage.names(name)}


class CutError(Exception):
    pass


def test_files_and_their_names(storage: Storage) -> None:
    assert storage.read("a/b.json") is None
    assert storage.names("a") == []
    storage.write("a/b.json", b"1")
    storage.write("a/c/d.bin", b"2")
    storage.write("a/b.json", b"3")
    assert storage.read("a/b.json") == b"3"
    assert sorted(storage.names("a")) == ["b.json", "c/d.bin"]
    assert Storage(storage.url).read("a/c/d.bin") == b"2"
    storage.remove("a/b.json")
    storage.remove("a/b.json")
    assert storage.names("a") == ["c/d.bin"]
    storage.clear("a")
    assert storage.names("a") == []


def test_storage_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="s3fs"):
        Storage("s3://bucket/study")
    with pytest.raises(InputError, match="nowhere"):
        Storage("nowhere://bucket/study")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="does not answer as it should"):
        Storage(str(tmp_path / "file")).write("a/b", b"")


def assigned(config, folder: Path, **changes) -> Assignment:
    places = {"data_dir": ".data", "device": "cpu", "download": False, "command": "", "track": ()}
    return Assignment(config=config, folder=str(folder), threads=1, **{**places, **changes})


def test_a_copy_goes_on_from_a_checkpoint_at_whatever_write_it_is_cut_short(tmp_path: Path, monkeypatch) -> None:
    run, moments = tmp_path / "run", tmp_path / "moments"

    def keep() -> None:
        shutil.copytree(run, moments / f"{len(RunFolder(run).epochs())}")

    assert carry_out(assigned(tiny(epochs=2), run), Display(), keep).kind == "finished"
    shutil.copytree(run, moments / "finished")
    write, left = Storage.write, 0

    def limited(self: Storage, name: str, content: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise CutError
        write(self, name, content)

    monkeypatch.setattr(Storage, "write", limited)
    steps, number, whole = [], 0, False
    while not whole:
        left, number, storage = number, number + 2, Storage(f"memory://{tmp_path.name}/{number}")
        try:
            for moment in sorted(moments.iterdir()):
                shutil.rmtree(run)
                shutil.copytree(moment, run)
                storage.push(run, "run")
            whole = True
        except CutError:
            pass
        copy = tmp_path / "copies" / f"{number}"
        storage.pull("run", copy)
        checkpoint = read_checkpoint(copy, finished=RunFolder(copy).finished())  # by its digests
        steps.append(int(checkpoint.metadata["step"]) if checkpoint else 0)
        assert (checkpoint is None) or checkpoint.state or RunFolder(copy).finished()
    assert steps == sorted(steps)
    assert set(steps) == {0, 4, 8}
    assert files(copy) == files(run)


def test_a_run_goes_on_from_its_copy_on_another_machine(tmp_path: Path, storage: Storage) -> None:
    config = tiny(epochs=3)
    whole = tmp_path / "whole"
    assert carry_out(assigned(config, whole), Display()).kind == "finished"

    def dies() -> None:
        storage.push(tmp_path / "first", "run")
        if len(RunFolder(tmp_path / "first").epochs()) == 2:
            raise CutError

    with pytest.raises(CutError):
        carry_out(assigned(config, tmp_path / "first"), Display(), dies)
    second = tmp_path / "second"
    assert storage.pull("run", second)
    assert files(second).keys() == on(storage, "run").keys() == files(tmp_path / "first").keys()
    push = lambda: storage.push(second, "run")  # noqa: E731
    assert carry_out(assigned(config, second), Display(), push).kind == "finished"
    push()
    assert files(second) == on(storage, "run")
    assert not [name for name in storage.names("run") if name.startswith(("state-", "previous"))]
    assert storage.read("run/last.safetensors") == (second / "last.safetensors").read_bytes()
    assert RunFolder(second).result().last == RunFolder(whole).result().last
    (second / "notes.txt").write_text("mine")
    storage.pull("run", second)
    assert (second / "notes.txt").exists()


def test_an_order_is_carried_out_on_the_storage(tmp_path: Path, storage: Storage) -> None:
    config, reports = tiny(epochs=1), []
    order = Order(assignment=assigned(config, Path("quick/seed-0")), study="/nowhere", sign="sign", storage=storage.url)
    refused = make_run(dump(order), version_of("flatnext"), reports.append)
    assert refused["kind"] == "refused"
    assert "does not see this study" in refused["message"]
    assert "install the same" in make_run(dump(order), "9.9.9", reports.append)["message"]
    with at_work(storage, print) as sign:
        order = Order(
            assignment=assigned(config, Path("quick/seed-0")), study="/nowhere", sign=sign, storage=storage.url
        )
        assert make_run(dump(order), version_of("flatnext"), reports.append) == {"kind": "finished", "message": ""}
    assert json.loads(storage.read("quick/seed-0/result.json"))["last"]["epoch"] == 1
    assert reports[0]["say"].startswith("quick seed 0: on node ")
    assert reports[-1]["say"].startswith("quick seed 0: epoch 1")


def test_a_process_that_was_thought_lost_ends(storage: Storage) -> None:
    def taken_over(report: dict) -> None:
        if "epoch 1" in report.get("say", ""):
            storage.write("quick/seed-0/.attempt", b"another")

    with at_work(storage, print) as sign:
        order = Order(assignment=assigned(tiny(), Path("quick/seed-0")), study="", sign=sign, storage=storage.url)
        with pytest.raises(StorageError, match="another process makes the run quick/seed-0"):
            make_run(dump(order), version_of("flatnext"), taken_over)
    assert storage.names("quick/seed-0") == []


def test_a_node_that_does_not_see_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flatnext.study.ray_node.LOOK_SECONDS", 0.1)
    order = Order(assignment=assigned(tiny(), Path("quick/seed-0")), study=str(tmp_path), sign="sign", storage=None)
    outcome = make_run(dump(order), version_of("flatnext"), lambda _: None)
    assert outcome["kind"] == "refused"
    assert "put the study on a shared one" in outcome["message"]


def test_runs_go_to_where_they_are_further(tmp_path: Path, storage: Storage) -> None:
    plan = make_plan([tiny(epochs=1)], 2)
    here, there = tmp_path / "here", tmp_path / "there"
    assert run_study(plan, here, threads=1) == []
    first = plan.runs(here)[0].folder
    storage.push(first, "quick/seed-0")
    shutil.rmtree(first)
    said: list[str] = []
    with kept_on(storage.url, here, print) as exchange:
        exchange.plan(plan, "", None)
        exchange.begin(plan.runs(here), said.append)
    assert said == [f"{storage.url}: brought 1 run from there, sent 1 that were further here"]
    assert RunFolder(first).finished()
    with kept_on(storage.url, there, print) as exchange:
        exchange.bring_plan()
        exchange.begin(plan.runs(there), said.append)
    assert all(RunFolder(run.folder).finished() for run in plan.runs(there))
    assert (there / "study.json").read_bytes() == (here / "study.json").read_bytes()
    changed = make_plan([tiny(epochs=2)], 2)
    with kept_on(storage.url, there, print) as exchange, pytest.raises(InputError, match="epochs"):
        exchange.begin(changed.runs(there), said.append)


def test_what_is_overwritten_is_gone_here_and_there(tmp_path: Path, storage: Storage) -> None:
    plan = make_plan([tiny(epochs=1)], 1)
    (run,) = plan.runs(tmp_path)
    assert run_study(plan, tmp_path, threads=1) == []
    storage.push(run.folder, "quick/seed-0")
    with kept_on(storage.url, tmp_path, print) as exchange:
        exchange.clear([run])
        assert [path.name for path in run.folder.iterdir() if not path.name.startswith(".")] == ["config.json"]
        assert on(storage, "quick/seed-0") == {}
        assert storage.read("quick/seed-0/.attempt") is not None  # another attempt ends
        exchange.begin([run], lambda _: None)
    assert not RunFolder(run.folder).finished()


def test_checkpoints_that_are_kept_stay_where_they_are(tmp_path: Path, storage: Storage) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    train(tiny(epochs=2), run, keep_checkpoints="all")
    storage.push(run, "run")
    assert storage.pull("run", other)
    (other / "state-000000001-0.pt").write_bytes(b"of a checkpoint that was replaced")
    for folder in (run, other):
        storage.pull("run", folder)
        assert files(folder) == on(storage, "run")
    assert len(list((run / "checkpoints").glob("state-*.pt"))) == 2


def test_a_run_within_its_first_epoch_goes_to_the_storage(tmp_path: Path, storage: Storage) -> None:
    plan = make_plan([tiny(epochs=1)], 1)
    (run,) = plan.runs(tmp_path)
    with pytest.raises(Stopped):
        train(run.config, run.folder, display=AtStep(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    with kept_on(storage.url, tmp_path, print) as exchange:
        exchange.begin([run], lambda _: None)
    assert files(run.folder) == on(storage, "quick/seed-0")


def test_one_is_at_work_at_a_time(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.1)
    said: list[str] = []
    with at_work(storage, said.append) as sign:
        assert is_at_work(storage, sign)
        assert not is_at_work(storage, "another")
        with pytest.raises(InputError, match="is at work on"), at_work(storage, said.append):
            pass
        assert is_at_work(storage, sign)
    assert storage.read(presence.FILE) is None
    assert len(said) == 1
    storage.write(presence.FILE, json.dumps({"host": "gone", "process": 1, "name": "x", "count": 3}).encode())
    with at_work(storage, said.append) as sign:  # it was killed
        assert is_at_work(storage, sign)
    assert said[-1].startswith("process 1 on gone was at work on")


def test_one_that_was_taken_over_gives_no_more_signs(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "BEAT_SECONDS", 0.05)
    other = json.dumps({"host": "other", "process": 1, "name": "x", "count": 0}).encode()
    with at_work(storage, print):
        storage.write(presence.FILE, other)  # of a head that saw no sign while this process stood still
        time.sleep(0.3)
        assert storage.read(presence.FILE) == other
    assert storage.read(presence.FILE) == other
