"""Runs of the command line in one folder: made once, stopped by a signal, taken up again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flatnext.files import write_json


class Queue:
    """A folder of runs, and the processes that are making some. SIGTERM and SIGINT let these write their checkpoints.

    A run is its folder NAME and its summary NAME.json, which says that it is done. Each process has `threads` threads.
    """

    def __init__(self, folder: Path, data_dir: str, threads: int = 1) -> None:
        self.folder, self.data_dir, self.threads = folder, data_dir, threads
        self.lock, self.stopping = threading.Lock(), False
        self.processes: set[subprocess.Popen] = set()
        folder.mkdir(parents=True, exist_ok=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)

    def best(self, runs: Iterable[tuple[str, str]], at_a_time: int = 1) -> int:
        """Make runs, each a name and its flags; return which has the highest validation accuracy in the last epoch."""
        with ThreadPoolExecutor(at_a_time) as pool:
            summaries = list(pool.map(lambda run: self.train(*run), runs))
        accuracies = [summary["last"]["validation"]["accuracy"] for summary in summaries]
        return accuracies.index(max(accuracies))

    def train(self, name: str, flags: str) -> dict:
        """Make a run, score its training images as they are, and return its summary.

        Exit where a run of that name is there with other flags.
        """
        summary, run = self.folder / f"{name}.json", self.folder / name
        command = f"train {flags} --output {shlex.quote(str(run))}"
        begun = (run / "config.json").is_file()
        if summary.is_file():
            made = _read(summary)["command"]
        else:
            made = _read(run / "environment.json")["sessions"][0]["command"] if begun else f"flatnext {command}"
        if _settings(made) != _settings(command):
            sys.exit(f"{name} was made by {made!r}, and not with {flags!r}: move it away")
        if not summary.is_file():
            self.call(f"train --resume {shlex.quote(str(run))}" if begun else command, name)
            scores = self.call(f"evaluate {shlex.quote(str(run))} --split train --json", name)
            write_json(summary, _summary(run, f"flatnext {command}", json.loads(scores.splitlines()[-1])))
        return _read(summary)

    def call(self, arguments: str, name: str) -> str:
        """Run a command of flatnext, its messages into NAME.log; return what it prints. Exit where it fails."""
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "flatnext", *shlex.split(arguments), "--data-dir", self.data_dir]
        with open(self.folder / f"{name}.log", "a") as log:
            with self.lock:
                if self.stopping:
                    sys.exit(130)
                process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
                self.processes.add(process)
            if self.stopping:  # a signal came before it was added
                process.send_signal(signal.SIGTERM)
            output = process.communicate()[0]
            self.processes.discard(process)
        if process.returncode:
            sys.exit(f"{name}: status {process.returncode}")
        return output

    def stop(self, *_: object) -> None:
        """Have the runs write their checkpoints and end."""
        self.stopping = True
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)


def _settings(command: str) -> dict[str, list[str]]:
    """Return the flags of a command with what was given to them, but for where its files are."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in shlex.split(command):
        if word.startswith("--"):
            values = found[word] = []
        else:
            values.append(word)
    return {flag: values for flag, values in found.items() if flag not in ("--output", "--data-dir")}


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def _summary(run: Path, command: str, train: dict) -> dict:
    """Return what a table of runs is made of; the training images are scored without augmentation."""
    result = _read(run / "result.json")
    return {
        "command": command,
        "config": _read(run / "config.json"),
        "environment": _read(run / "environment.json"),
        "metrics": [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "last": result["last"],
        "best": result["best"],
        "train_as_it_is": {key: train[key] for key in ("accuracy", "loss", "count")},
        "train_seconds": result["train_seconds"],
    }
