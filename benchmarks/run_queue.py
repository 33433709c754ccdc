"""Runs of the command line in one folder: made once, stopped by a signal, taken up again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


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
        """Make a run, score its training images as they are, and return its summary."""
        summary, run = self.folder / f"{name}.json", self.folder / name
        if not summary.is_file():
            command = f"train {flags} --output {run}"
            self.call(f"train --resume {run}" if (run / "config.json").is_file() else command, name)
            train = json.loads(self.call(f"evaluate {run} --split train --json", name).splitlines()[-1])
            summary.write_text(json.dumps(_summary(run, f"flatnext {command}", train), indent=1) + "\n")
        return json.loads(summary.read_text())

    def call(self, arguments: str, name: str) -> str:
        """Run a command of flatnext, its messages into NAME.log; return what it prints. Exit where it fails."""
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "flatnext", *arguments.split(), "--data-dir", self.data_dir]
        with open(self.folder / f"{name}.log", "a") as log:
            with self.lock:
                if self.stopping:
                    sys.exit(130)
                process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
                self.processes.add(process)
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


def _summary(run: Path, command: str, train: dict) -> dict:
    """Return what a table of runs is made of; the training images are scored without augmentation."""
    result = json.loads((run / "result.json").read_text())
    return {
        "command": command,
        "config": json.loads((run / "config.json").read_text()),
        "environment": json.loads((run / "environment.json").read_text()),
        "metrics": [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()],
        "last": result["last"],
        "best": result["best"],
        "train_as_it_is": {key: train[key] for key in ("accuracy", "loss", "count")},
        "train_seconds": result["train_seconds"],
    }
