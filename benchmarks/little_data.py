"""The study "does AMP help where data are few?": 5,000 images of CIFAR-10, tuned arms, five fresh seeds.

    chrt --idle 0 nice -19 python benchmarks/little_data.py runs/little-data --data-dir .data

Runs what is missing and ends when all is done; stopped by a signal and started again it goes on where it was. Two runs
are made at a time, each in a process of its own with one thread. `--collect DIR` copies the small files of finished
runs. The protocol was fixed before any fresh seed was run. Images have 16 x 16 pixels and random mirroring, for 20
epochs, so that plain SGD fits the training images: in a pilot with seed 100, 16 epochs ended at 98.08 % of them as they
are, and with crops as well the 16th of 24 epochs was at 70 %.

1. Trials: rate and weight decay of plain SGD, four of them. Then the radius of AMP, momentum AMP and SAM, each with
   that rate and decay: four trials. A trial is one run with seed 100, chosen by the accuracy on 5,000 validation
   images, last epoch. RMP has AMP's radius, as it is AMP's control. The radii of AMP were to be 0.01, 0.03, 0.1 and
   0.3; when 0.01 had 64.70 % and 0.03 had 56.44 % of the validation images right, the two larger ones, not yet run,
   gave way to 0.0025 and 0.005, so that the best is not at the edge of the grid. Momentum AMP has the same grid.
2. The study, by `flatnext study`: each arm with seeds 0 to 4, and SGD with twice the epochs (`sgd-2x`, as many passes
   as AMP has). The outcome is the test accuracy of the last epoch. The primary contrast is AMP against `sgd-2x`;
   `CONTRASTS` has all of them, and p and intervals are corrected for their number by Holm's procedure. SGD and AMP are
   run first, the other arms when they are tuned.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TUNING_SEED = 100
COMMON = (
    "--dataset cifar10 --image-size 16 --train-images 5000 --validation 5000 --cutout 0 --crop-padding 0 --epochs 20 "
    "--batch-size 32 --warmup-epochs 1 --precision fp32 --no-test-curve --evaluate-every 8"
)
RATES_AND_DECAYS = [(rate, decay) for rate in (0.05, 0.1) for decay in (5e-4, 2e-3)]
RADII = {
    "amp": ("epsilon", (0.0025, 0.005, 0.01, 0.03)),
    "momentum-amp": ("epsilon", (0.0025, 0.005, 0.01, 0.03)),
    "sam": ("rho", (0.02, 0.05, 0.1, 0.2)),
}
STAGES = (("amp",), ("amp", "momentum-amp", "sam"))
"""Which methods are tuned, and then run with the fresh seeds."""
CONTRASTS = (
    *("amp-tuned:sgd-2x", "amp-tuned:sgd", "amp-tuned:rmp-tuned", "amp-tuned:sam-tuned"),
    "momentum-amp-tuned:sgd",
)

SMALL = ("*.json", "metrics.jsonl")
Trial = tuple[str, str]  # its name, and its flags


class Queue:
    """The folder of the runs, and the processes that are making some."""

    def __init__(self, folder: Path, data_dir: str) -> None:
        self.folder, self.data_dir = folder, data_dir
        self.lock, self.stopping = threading.Lock(), False
        self.processes: set[subprocess.Popen] = set()

    def run(self) -> None:
        """Make what is missing; end early after a signal, or where a run fails."""
        rates = [
            (f"sgd-lr-{rate:g}-wd-{decay:g}", f"--lr {rate} --weight-decay {decay}") for rate, decay in RATES_AND_DECAYS
        ]
        base = self.best(rates)
        for methods in STAGES:
            radii = {}
            for method in methods:
                name, values = RADII[method]
                trials = [
                    (f"{method}-{name}-{value:g}", f"{base} --method {method} --{name} {value}") for value in values
                ]
                radii[method] = self.best(trials)
            self.study(base, radii)

    def best(self, trials: list[Trial]) -> str:
        """Make the trials and return the flags of the one with the highest validation accuracy."""
        with ThreadPoolExecutor(2) as pool:
            accuracies = list(pool.map(self.trial, trials))
        return trials[accuracies.index(max(accuracies))][1]

    def trial(self, trial: Trial) -> float:
        """Make a run, score its training images as they are, and return its validation accuracy."""
        name, flags = f"tune-{trial[0]}", trial[1]
        summary, run = self.folder / f"{name}.json", self.folder / name
        if not summary.is_file():
            command = f"train --recipe sgd {COMMON} {flags} --seed {TUNING_SEED} --output {run}"
            again = (run / "config.json").is_file()
            self.call(f"train --resume {run}" if again else command, name)
            train = json.loads(self.call(f"evaluate {run} --split train --json", name).splitlines()[-1])
            summary.write_text(json.dumps(_summary(run, f"flatnext {command}", train), indent=1) + "\n")
        return json.loads(summary.read_text())["last"]["validation"]["accuracy"]

    def study(self, base: str, flags: dict[str, str]) -> None:
        """Make the study of plain SGD and the tuned methods."""
        settings: dict[str, dict[str, float]] = {}
        for method, text in flags.items():
            name = RADII[method][0]
            settings[method] = {name: float(text.split()[-1])} | ({"inner_lr": 1.0} if name == "epsilon" else {})
        if len(flags) > 1:
            settings["rmp"] = settings["amp"]
        files = [self.folder / method / "tuned.json" for method in settings]  # of recipe METHOD-tuned
        for file, (method, values) in zip(files, settings.items(), strict=True):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"recipe": method, "method": values}) + "\n")
        there = {"sgd", "sgd-2x", *(f"{method}-tuned" for method in settings)}
        contrasts = [pair for pair in CONTRASTS if {*pair.split(":")} <= there]
        self.call(
            f"study --recipes sgd {' '.join(map(str, files))} --equal-compute --contrasts {' '.join(contrasts)} "
            f"{COMMON} {base} --seeds 5 --jobs 2 --threads 1 --output {self.folder / 'study'}",
            "study",
        )

    def call(self, arguments: str, name: str) -> str:
        """Run a command of flatnext, its messages into NAME.log; return what it prints. Exit where it fails."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
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
    """Return what the table of the trials is made of; the training images are scored without augmentation."""
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


def _small(folder: Path) -> Iterator[Path]:
    """Yield the files of finished runs that belong into the repository, and those of the study."""
    for pattern in ("tune-*.json", "*/tuned.json", "study/study.json"):
        yield from folder.glob(pattern)
    for result in (folder / "study").glob("*/*/result.json"):
        for pattern in SMALL:
            yield from result.parent.glob(pattern)


def main() -> None:
    """Run the queue, or copy the small files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the runs lie")
    parser.add_argument("--data-dir", default=".data", help="the folder of CIFAR-10")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="copy the small files of finished runs and end")
    options = parser.parse_args()
    if options.collect:
        for file in _small(options.folder):
            place = options.collect / file.relative_to(options.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    queue = Queue(options.folder, options.data_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, queue.stop)
    queue.run()


if __name__ == "__main__":
    main()
