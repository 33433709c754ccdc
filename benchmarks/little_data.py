"""The study "does AMP help where data are few?": 5,000 images of CIFAR-10, tuned arms, five fresh seeds.

    chrt --idle 0 nice -19 python benchmarks/little_data.py runs/little-data --data-dir .data --jobs 2

Runs what is missing and stops when all is done; stopped by a signal and started again it goes on where it was. Each run
is a process of its own with one thread. What a finished run measured lies in FOLDER/NAME.json; `--collect DIR` copies
these files. The protocol was fixed before any fresh seed was run. Images have 16 x 16 pixels and random mirroring,
for 20 epochs, so that plain SGD fits the training images: in a pilot with seed 100, 16 epochs ended at 98.08 % of them
as they are, and with crops as well the 16th of 24 epochs was at 70 %.

1. Rate and weight decay of plain SGD: four trials. Then the radius of AMP, momentum AMP and SAM, each with that rate
   and decay: four trials. A trial is one run with seed 100, chosen by the accuracy on 5,000 validation images, last
   epoch. RMP has AMP's radius, as it is AMP's control. The radii of AMP were to be 0.01, 0.03, 0.1 and 0.3; when 0.01
   had 64.70 % and 0.03 had 56.44 % of the validation images right, the two larger ones, not yet run, gave way to
   0.0025 and 0.005, so that the best is not at the edge of the grid. Momentum AMP has the same grid.
2. Each arm with seeds 0 to 4. The primary outcome is the test accuracy of the last epoch, AMP against SGD with twice
   the epochs (`sgd-2x`, as many passes as AMP has).
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
import time
from collections.abc import Iterator
from pathlib import Path

EPOCHS = 20
TUNING_SEED, SEEDS = 100, range(5)
COMMON = (
    "--recipe sgd --dataset cifar10 --image-size 16 --train-images 5000 --validation 5000 --cutout 0 --crop-padding 0 "
    "--batch-size 32 --warmup-epochs 1 --precision fp32 --no-test-curve --evaluate-every 8"
)
RATES_AND_DECAYS = [(rate, decay) for rate in (0.05, 0.1) for decay in (5e-4, 2e-3)]
RADII = {
    "amp": ("epsilon", (0.0025, 0.005, 0.01, 0.03)),
    "momentum-amp": ("epsilon", (0.0025, 0.005, 0.01, 0.03)),
    "sam": ("rho", (0.02, 0.05, 0.1, 0.2)),
}
ARMS = ("sgd", "sgd-2x", "amp", "momentum-amp", "sam", "rmp")

Job = tuple[str, str]  # name of a run, and its flags


class Study:
    """What is to be run, in order, given what has been."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def summary(self, name: str) -> dict | None:
        """Return what a finished run measured."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def best(self, trials: list[Job]) -> Job | None:
        """Return the trial with the highest validation accuracy, None while one is missing."""
        scores = [self.summary(name) for name, _ in trials]
        if any(score is None for score in scores):
            return None
        return max(zip(trials, scores, strict=True), key=lambda pair: pair[1]["last"]["validation"]["accuracy"])[0]

    def jobs(self) -> Iterator[Job]:
        """Yield the runs that can be made now: tuning of SGD and AMP, their seeds, then the other arms."""
        rates = [
            (f"tune-sgd-lr-{rate:g}-wd-{decay:g}", f"--lr {rate} --weight-decay {decay} {_seed(TUNING_SEED)}")
            for rate, decay in RATES_AND_DECAYS
        ]
        yield from rates
        if (chosen := self.best(rates)) is None:
            return
        base = chosen[1].removesuffix(_seed(TUNING_SEED))
        flags = {"sgd": base, "sgd-2x": f"{base} --epochs {2 * EPOCHS}"}
        for arm, trials in {arm: _radius_trials(arm, base) for arm in RADII}.items():
            if arm != "amp":
                yield from _final(flags)
            yield from trials
            if (chosen := self.best(trials)) is not None:
                flags[arm] = chosen[1].removesuffix(_seed(TUNING_SEED))
        if "amp" in flags:
            flags["rmp"] = flags["amp"].replace("--method amp", "--method rmp")
        yield from _final(flags)


def _radius_trials(arm: str, base: str) -> list[Job]:
    setting, radii = RADII[arm]
    return [
        (f"tune-{arm}-{setting}-{radius:g}", f"{base} --method {arm} --{setting} {radius} {_seed(TUNING_SEED)}")
        for radius in radii
    ]


def _final(flags: dict[str, str]) -> Iterator[Job]:
    for seed in SEEDS:
        for arm in ARMS:
            if arm in flags:
                yield f"{arm}-seed-{seed}", f"{flags[arm]} {_seed(seed)}"


def _seed(seed: int) -> str:
    return f"--seed {seed}"


class Workers:
    """Threads that each take the next run nobody has taken, and make it in a process of its own."""

    def __init__(self, study: Study, data_dir: str) -> None:
        self.study, self.data_dir = study, data_dir
        self.lock, self.taken, self.failed = threading.Lock(), set[str](), set[str]()
        self.processes: set[subprocess.Popen] = set()
        self.stopping = False

    def work(self) -> None:
        """Make runs until there are none left."""
        while not self.stopping:
            job = self.take()
            if job is None:
                if not self.taken:
                    return
                time.sleep(10)  # another worker's run may make further ones possible
                continue
            try:
                self.make(*job)
            finally:
                with self.lock:
                    self.taken.discard(job[0])

    def take(self) -> Job | None:
        """Return a run that is neither finished nor under way."""
        with self.lock:
            for name, flags in self.study.jobs():
                if name not in self.taken | self.failed and self.study.summary(name) is None:
                    self.taken.add(name)
                    return name, flags
        return None

    def make(self, name: str, flags: str) -> None:
        """Train, score the training images as they are, and write the run's summary."""
        run = self.study.folder / name
        epochs = "" if "--epochs" in flags else f" --epochs {EPOCHS}"
        begin = f"train {COMMON} {flags}{epochs} --data-dir {self.data_dir} --output {run}"
        self.call(
            f"train --resume {run} --data-dir {self.data_dir}" if (run / "config.json").is_file() else begin, name
        )
        if not (run / "result.json").is_file():
            if not self.stopping:
                self.failed.add(name)
            return
        scores = self.call(f"evaluate {run} --split train --json --data-dir {self.data_dir}", name)
        summary = _summary(run, f"flatnext {begin}", json.loads(scores.splitlines()[-1]))
        (self.study.folder / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")

    def call(self, arguments: str, name: str) -> str:
        """Run a command of flatnext with one thread; its messages go to NAME.log."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with open(self.study.folder / f"{name}.log", "a") as log:
            command = [sys.executable, "-m", "flatnext", *arguments.split()]
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
            self.processes.add(process)
            output = process.communicate()[0]
            self.processes.discard(process)
        return output

    def stop(self, *_: object) -> None:
        """Have the runs write their checkpoints and end."""
        self.stopping = True
        for process in list(self.processes):
            process.send_signal(signal.SIGTERM)


def _summary(run: Path, command: str, train: dict) -> dict:
    """Return what the tables are made of; the training images are scored without augmentation."""
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


def main() -> None:
    """Run the queue, or copy the summaries."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the runs lie")
    parser.add_argument("--data-dir", default=".data", help="the folder of CIFAR-10")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="copy the summaries to DIR and end")
    parser.add_argument("--list", action="store_true", help="list the runs that can be made now and end")
    options = parser.parse_args()
    study = Study(options.folder)
    if options.collect:
        options.collect.mkdir(parents=True, exist_ok=True)
        for file in sorted(options.folder.glob("*.json")):
            shutil.copy(file, options.collect)
        return
    if options.list:
        for name, flags in study.jobs():
            print("done" if study.summary(name) else "to do", name, flags)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    workers = Workers(study, options.data_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, workers.stop)
    threads = [threading.Thread(target=workers.work) for _ in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
