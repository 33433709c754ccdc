"""A cluster of Ray that makes the runs of a study, a task each; lost ones are made again from their last checkpoint."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flatnext.config.setting import require
from flatnext.cpu import VARIABLES, cores
from flatnext.errors import InputError
from flatnext.progress import Display
from flatnext.schema import dump
from flatnext.study.assignment import Assignment, Begun, Outcomes, Runner
from flatnext.study.division import Division
from flatnext.study.exchange import Exchange
from flatnext.study.overview import Overview
from flatnext.study.ray_node import Order, make_run, sign_name
from flatnext.study.ray_work import RayWork
from flatnext.training.stop import stop_on_signal
from flatnext.versions import import_extra, version_of
from flatnext.words import counted

CONNECT_SECONDS = 10.0
"""In which a cluster must answer: Ray itself tries for minutes."""

ANSWER_SECONDS = 10.0
"""How long to wait for the reports of the runs; where they do not come, they are shown later."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster of Ray, and what a run asks of it.

    Attributes:
        address: as of `ray.init`: `auto` or HOST:PORT; None: this machine alone.
        storage: a path or an fsspec URL that all nodes reach; None: they share the study's folder.
        gpus: GPUs of each run, also a fraction; None: one where the cluster has any and the device allows it.
        retries: how often a run that was lost, with its process or its node, is made again.
    """

    address: str | None = None
    storage: str | None = None
    gpus: float | None = None
    retries: int = 3

    def __post_init__(self) -> None:
        """Check the numbers."""
        require(self.gpus is None or self.gpus >= 0, f"gpus is {self.gpus}: give at least 0")
        require(self.retries >= 0, f"retries is {self.retries}: give at least 0")


class Board:
    """Collects what the tasks report, as an actor of Ray's, until the head takes it."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, dict[str, Any]]] = []

    def post(self, folder: str, report: dict[str, Any]) -> None:
        """Take a report; of how far a run is, only the last is of interest."""
        if "show" in report:
            self.reports = [item for item in self.reports if item[0] != folder or "show" not in item[1]]
        self.reports.append((folder, report))

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the reports since the last call, with the folders of their runs."""
        taken, self.reports = self.reports, []
        return taken


class RayCluster:
    """A runner of a study, whose `sign` its nodes know: see `Order`. Use it in a `with` block.

    At most `most` runs are made at a time, with `threads` CPUs each.
    """

    def __init__(
        self,
        cluster: Cluster,
        display: Display,
        *,
        study: Path,
        storage: str | None,
        sign: str,
        device: str = "auto",
        threads: int | None = None,
        most: int | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported
        self.ray = import_extra("ray", "ray")
        self.cluster, self.display = cluster, display
        self.study, self.storage, self.sign = study, storage, sign
        self.device, self.threads, self.most = device, threads, most

    def __enter__(self) -> RayCluster:
        self.owned = not self.ray.is_initialized()
        if self.owned:
            self._connect()
        there = self.ray.cluster_resources()
        gpus = self.cluster.gpus
        if gpus is None:
            gpus = 1 if there.get("GPU", 0) >= 1 and self.device in ("auto", "cuda") else 0
        if not gpus:
            self.threads = self.threads or 1
        self.asked = {"CPU": self.threads or 1, "GPU": gpus}
        # Ray makes nothing again by itself: a run that is lost is begun anew where that can be said.
        task = self.ray.remote(num_cpus=self.asked["CPU"], num_gpus=gpus, max_retries=0)
        self.task = task(_make_run)
        here = self.ray.get_runtime_context().get_node_id()  # rather than on a node that may go
        where = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        self.board = self.ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=where)(Board).remote()
        self.display.say(self._described())
        return self

    def __exit__(self, *_: object) -> None:
        if self.owned:
            self.ray.shutdown()

    def _connect(self) -> None:
        address = self.cluster.address
        local: dict[str, Any] = {"num_cpus": cores(), "include_dashboard": False}
        try:
            _require_answer(address)
            self.ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level="critical",
                runtime_env={"env_vars": VARIABLES},
                **({} if address else local),
            )
        except (OSError, ValueError, RuntimeError) as error:
            words = " ".join(str(error).split())[:200]
            raise InputError(f"no cluster of Ray answers at {address} ({words}): correct --address") from error

    def _described(self) -> str:
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        fits = any(all(node.get(name, 0) >= number for name, number in self.asked.items()) for node in nodes)
        there = {name: sum(node.get(name, 0) for node in nodes) for name in self.asked}
        wait = "" if fits else "; no node has that now: runs wait until one comes"
        number = counted(len(nodes), "node")
        return f"Ray {self.ray.__version__}, {number} with {_words(there)}; each run takes {_words(self.asked)}{wait}"

    @property
    def division(self) -> Division:
        """How the study is divided: as many runs at a time as there is room for, each with so many threads."""
        there = self.ray.cluster_resources()
        room = min(int(there.get(name, 0) / number) for name, number in self.asked.items() if number)
        return Division(jobs=max(min(room, self.most or room), 1), threads=self.threads)

    def carry_out(self, assignments: Sequence[Assignment], begun: Begun) -> Outcomes:
        """See `Runner`. All are given to the cluster at once, unless there is a `most`; it begins those that fit."""
        with stop_on_signal() as stop_requested, Overview(self.display, assignments) as view:
            work = RayWork(self, assignments, begun, view, retries=self.cluster.retries)
            while not stop_requested() and not work.ended():
                yield from work.look()
            yield from work.stop()

    def submit(self, assignment: Assignment, *, again: bool) -> Any:
        """Give a run to the cluster, and return Ray's reference to what will become of it."""
        name = Path(assignment.folder).relative_to(self.study).as_posix()
        order = Order(
            assignment=replace(assignment, folder=name, data_dir=str(Path(assignment.data_dir).resolve())),
            study=str(self.study.resolve()),
            sign=self.sign,
            storage=self.storage,
            key=assignment.folder,
            again=again,
        )
        return self.task.remote(dump(order), version_of("flatnext"), self.board)

    def reports(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what the runs have reported since the last call; nothing where Ray does not say it now."""
        with suppress(self.ray.exceptions.RayError):
            return self.ray.get(self.board.take.remote(), timeout=ANSWER_SECONDS)
        return []


def _words(resources: Mapping[str, float]) -> str:
    """Return `2 CPU, 1 GPU`."""
    return ", ".join(f"{number:g} {name}" for name, number in resources.items() if number) or "nothing"


@contextmanager
def open_cluster(
    cluster: Cluster,
    exchange: Exchange,
    display: Display,
    *,
    device: str = "auto",
    threads: int | None = None,
    jobs: int | Literal["auto"] = "auto",
) -> Iterator[tuple[Runner, Division | None]]:
    """Give a cluster that makes the runs of a study, and how the study is divided there."""
    study, sign = exchange.output, exchange.sign or secrets.token_hex(8)
    most = None if jobs == "auto" else jobs
    try:
        if not exchange.sign:
            (study / sign_name(sign)).touch()
        with RayCluster(
            cluster,
            display,
            study=study,
            storage=exchange.url,
            sign=sign,
            device=device,
            threads=threads,
            most=most,
        ) as runner:
            yield runner, runner.division
    finally:
        (study / sign_name(sign)).unlink(missing_ok=True)


def _require_answer(address: str | None) -> None:
    """Raise `OSError` where nothing answers at HOST:PORT."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _make_run(order: dict[str, Any], version: str, board: Any) -> dict[str, Any]:
    """Make a run on the node where Ray calls this."""
    return make_run(order, version, lambda report: board.post.remote(order["key"], report))
