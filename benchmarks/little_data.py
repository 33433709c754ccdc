"""The study "does AMP help where data are few?": 5,000 images of CIFAR-10, tuned arms, five fresh seeds.

    chrt --idle 0 nice -19 python benchmarks/little_data.py runs/little-data --data-dir .data

Runs what is missing and ends when all is done; stopped by a signal and started again it goes on where it was. Two runs
are made at a time, each in a process of its own with one thread. `--collect` measures the evidence of finished runs and
copies their small files into the repository; runs that are there are not made again, on whatever machine. The protocol
was fixed before any fresh seed was run. Images have 16 x 16 pixels and random mirroring, for 20 epochs, so that plain
SGD fits the training images: in a pilot with seed 100, 16 epochs ended at 98.08 % of them as they are, and with crops
as well the 16th of 24 epochs was at 70 %.

1. Trials, each one run with seed 100; that with the highest accuracy on 5,000 validation images, last epoch, is chosen.
   Rate and weight decay of plain SGD: six. With these, the radius of AMP, momentum AMP and SAM: four each. Of SGD with
   twice the epochs, which has as many passes as AMP, the weight decay, with SGD's rate: four. RMP has AMP's radius, as
   it is AMP's control. Two grids were moved when their first trials had shown the best at an edge, before any fresh
   seed was run: AMP's radii were to be 0.01, 0.03, 0.1 and 0.3, and 0.1 and 0.3, not yet run, gave way to 0.0025 and
   0.005 (validation 64.70 % at 0.01, 56.44 % at 0.03); SGD's first four, of two rates and two decays, had the best at
   rate 0.05 and decay 2e-3, a corner, and two trials with decay 4e-3 were added.
2. The study, by `flatnext study`: each arm with seeds 0 to 4. The outcome is the test accuracy of the last epoch. The
   primary contrast is AMP against SGD with twice the epochs; `CONTRASTS` has all of them, and p and intervals are
   corrected for their number by Holm's procedure. SGD and AMP are run first, the other arms when they are tuned.
   Beside the outcome stand the test loss, calibration (10,000 test images) and accuracy under corruptions (1,000).
   Flatness (500 training images and fewer) and accuracy under attacks (250) were added when three runs had finished.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from run_queue import Queue

from flatnext.files import write_atomically

TUNING_SEED, EPOCHS = 100, 20
COMMON = (
    "--dataset cifar10 --image-size 16 --train-images 5000 --validation 5000 --cutout 0 --crop-padding 0 "
    "--batch-size 32 --warmup-epochs 1 --precision fp32 --no-test-curve --evaluate-every 8"
)
RATES_AND_DECAYS = [(0.05, 5e-4), (0.05, 2e-3), (0.1, 5e-4), (0.1, 2e-3), (0.05, 4e-3), (0.025, 4e-3)]
LONGER_DECAYS = (5e-4, 1e-3, 2e-3, 4e-3)
RADII = {
    "amp": ("epsilon", (0.0025, 0.005, 0.01, 0.03)),
    "momentum-amp": ("epsilon", (0.0025, 0.005, 0.01, 0.03)),
    "sam": ("rho", (0.02, 0.05, 0.1, 0.2)),
}
STAGES = (("amp",), ("amp", "momentum-amp"), ("amp", "momentum-amp", "sam"))
"""Which methods are tuned, and then run with the fresh seeds."""
CONTRASTS = (
    *("amp-tuned:sgd-tuned-2x", "amp-tuned:sgd-tuned", "amp-tuned:rmp-tuned", "amp-tuned:sam-tuned"),
    "momentum-amp-tuned:sgd-tuned",
)

KEPT = Path(__file__).parents[1] / "docs" / "runs" / "little-data"
"""The small files of finished runs."""

PLAN = Path("study", "study.json")
"""Written by `flatnext study`; the one in the repository names all arms and contrasts."""

EVIDENCE = (  # flatness takes at most half of the images, corruptions half, attacks a sixteenth
    *("calibration --images 10000", "corruptions --images 2000", "flatness --images 1000"),
    "attacks --images 4000 --linf 1 --l2 32",
)

SHORT = {"lr": "lr", "weight_decay": "wd", "epsilon": "epsilon", "rho": "rho"}
"""Settings in the name of a trial."""

Settings = dict[str, Any]  # flags of `flatnext train`, with their values


class Study:
    """The trials and the study, in the folder of a queue."""

    def __init__(self, queue: Queue) -> None:
        self.queue, self.folder = queue, queue.folder

    def run(self) -> None:
        """Make what is missing; end early after a signal, or where a run fails."""
        plain = self.best({"lr": rate, "weight_decay": decay, "epochs": EPOCHS} for rate, decay in RATES_AND_DECAYS)
        for methods in STAGES:
            arms = {"sgd/tuned": plain}
            for method in methods:
                name, radii = RADII[method]
                arms[f"{method}/tuned"] = self.best({**plain, "method": method, name: radius} for radius in radii)
            arms["sgd/tuned-2x"] = self.best(
                {**plain, "epochs": 2 * EPOCHS, "weight_decay": decay} for decay in LONGER_DECAYS
            )
            if "sam" in methods:
                arms["rmp/tuned"] = {**arms["amp/tuned"], "method": "rmp"}
            self.study(arms)

    def best(self, trials: Iterable[Settings]) -> Settings:
        """Make the trials and return the settings of the one with the highest validation accuracy."""
        trials = list(trials)
        return trials[self.queue.best(map(self.trial, trials), at_a_time=2)]

    def trial(self, settings: Settings) -> tuple[str, str]:
        """Return the name of a trial and the flags of `flatnext train`."""
        texts = [f"{short}-{settings[name]:g}" for name, short in SHORT.items() if name in settings]
        longer = ["2x"] if settings["epochs"] > EPOCHS else []
        flags = " ".join(f"--{setting.replace('_', '-')} {value}" for setting, value in settings.items())
        name = "-".join(["tune", settings.get("method", "sgd"), *longer, *texts])
        return name, f"--recipe sgd {COMMON} {flags} --seed {TUNING_SEED}"

    def study(self, arms: dict[str, Settings]) -> None:
        """Make the study of these arms: ARM/tuned is recipe ARM-tuned."""
        files = [self.folder / f"{arm}.json" for arm in arms]
        for file, settings in zip(files, arms.values(), strict=True):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(_config(file.parent.name, settings)) + "\n")
        there = {arm.replace("/", "-") for arm in arms}
        contrasts = [pair for pair in CONTRASTS if {*pair.split(":")} <= there]
        self.queue.call(
            f"study --recipes {shlex.join(map(str, files))} --contrasts {' '.join(contrasts)} {COMMON} --seeds 5 "
            f"--jobs 2 --threads 1 --output {shlex.quote(str(self.folder / 'study'))}",
            "study",
        )


def _config(recipe: str, settings: Settings) -> dict:
    """Return the settings as a config file gives them; `inner_lr` is that of the trials."""
    radius = {name: settings[name] for name in ("epsilon", "rho") if name in settings}
    inner = {"inner_lr": 1.0} if "epsilon" in radius else {}
    return {
        "recipe": recipe,
        "epochs": settings["epochs"],
        "optimizer": {"learning_rate": settings["lr"], "weight_decay": settings["weight_decay"]},
        "method": {**radius, **inner},
    }


def _collect(folder: Path, data_dir: str) -> None:
    """Measure the evidence of the study's finished runs whose weights are here, and copy the small files."""
    with open(folder / "evidence.log", "a") as log:  # it names the accuracy of a run, which nobody need see yet
        for result in (folder / "study").glob("*/*/result.json"):
            for measurement in EVIDENCE if (result.parent / "last.safetensors").is_file() else ():
                command = ["-m", "flatnext", "evidence", str(result.parent), "--measurements", *measurement.split()]
                subprocess.run([sys.executable, *command, "--data-dir", data_dir], check=True, stdout=log, stderr=log)
    for file in _small(folder):
        _copy(file, KEPT / file.relative_to(folder))
    if (folder / PLAN).is_file():
        _keep_plan(folder)


def _keep_plan(folder: Path) -> None:
    """Keep the plan, with all arms and contrasts: those that are not run yet count for Holm's procedure too."""
    plan = json.loads((folder / PLAN).read_text())
    pairs = [pair.split(":") for pair in CONTRASTS]
    arms = dict.fromkeys([*plan["recipes"], *(arm for pair in pairs for arm in pair)])
    (KEPT / PLAN).write_text(json.dumps(plan | {"recipes": list(arms), "contrasts": pairs}, indent=1) + "\n")


def _restore(folder: Path) -> None:
    """Copy from the repository what is not in the folder: a run of the study whole, or not at all."""
    there = {result.parent.relative_to(KEPT) for result in (KEPT / "study").glob("*/*/result.json")}
    begun = {run for run in there if (folder / run / "config.json").is_file()}
    last = "config.json"  # it says that there is a run
    for file in sorted(_small(KEPT), key=lambda file: file.name == last):
        place = file.relative_to(KEPT)
        if place.parent not in begun and not (folder / place).exists():
            _copy(file, folder / place)


def _small(folder: Path) -> Iterator[Path]:
    """Yield the files of finished runs that belong into the repository, and the settings of the arms."""
    for pattern in ("tune-*.json", "*/tuned*.json"):
        yield from folder.glob(pattern)
    for result in (folder / "study").glob("*/*/result.json"):
        yield from result.parent.glob("*.json")
        yield result.parent / "metrics.jsonl"


def _copy(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, file.read_bytes())


def main() -> None:
    """Run the queue, or copy the small files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the runs lie")
    parser.add_argument("--data-dir", default=".data", help="the folder of CIFAR-10")
    parser.add_argument("--collect", action="store_true", help="keep what has finished in the repository")
    options = parser.parse_args()
    if options.collect:
        return _collect(options.folder, options.data_dir)
    options.folder.mkdir(parents=True, exist_ok=True)
    _restore(options.folder)
    Study(Queue(options.folder, options.data_dir)).run()


if __name__ == "__main__":
    main()
