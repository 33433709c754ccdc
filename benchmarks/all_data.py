"""AMP and momentum AMP with all of CIFAR-10: the recipe `cpu` with each, beside the plain SGD that it is.

    chrt --idle 0 nice -19 python benchmarks/all_data.py runs/all-data --data-dir .data

Makes what is missing and ends when all is done; stopped by a signal and started again it goes on where it was. One run
is made at a time, with two threads. The protocol was fixed before any run. All runs have one `--precision`: bf16
where the machine is fast in it (AVX-512 BF16), as the SGD run that ships has.

1. Trials, with seed 100: `cpu` cut short to 8 epochs of 15,000 images at 16 x 16 pixels and rate 0.2; that with the
   highest accuracy on 5,000 validation images, last epoch, is chosen. The radius of AMP and of momentum AMP, four
   each; plain SGD once, for comparison. So short a run wants a smaller radius than a long one, if anything.
2. The recipe as it is, on all 50,000 images, with seed 0, then 1 and so on: AMP, momentum AMP, SGD. Each run
   reads the test set once, after its last epoch. The best of seed 0 ships.

The summaries of finished runs, NAME.json, are kept in the repository by hand; a run whose summary is there is not made
again, on whatever machine.

AMP computes its perturbation from half of each batch (`ascent_share`), which saves a quarter of its time: 1.5 passes
over the data in place of 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run_queue import Queue

from flatnext.files import write_atomically

TRIAL = (
    "--train-images 15000 --validation 5000 --image-size 16 --early-sizes 16 --epochs 8 --warmup-epochs 2 --lr 0.2 "
    "--seed 100"
)
METHODS = {"amp": "--method amp --ascent-share 0.5", "momentum-amp": "--method momentum-amp"}
RADII = (0.0025, 0.005, 0.01, 0.02)

KEPT = Path(__file__).parents[1] / "docs" / "runs" / "all-data"
"""The summaries of finished runs."""


def main() -> None:
    """Run the queue."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the runs lie")
    parser.add_argument("--data-dir", default=".data", help="the folder of CIFAR-10")
    parser.add_argument("--seeds", type=int, default=1, help="full runs of each method (default: 1)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all runs (default: fp32)")
    options = parser.parse_args()
    queue = Queue(options.folder, options.data_dir, threads=2)
    for summary in KEPT.glob("*.json"):
        if not (options.folder / summary.name).exists():
            write_atomically(options.folder / summary.name, summary.read_bytes())

    precision = options.precision
    recipe = f"--recipe cpu --precision {precision}"
    chosen = {}
    for method, flags in METHODS.items():
        trials = {f"tune-{method}-{precision}-epsilon-{radius:g}": f"{flags} --epsilon {radius:g}" for radius in RADII}
        best = queue.best((name, f"{recipe} {settings} {TRIAL}") for name, settings in trials.items())
        chosen[method] = list(trials.values())[best]
    queue.train(f"tune-sgd-{precision}", f"{recipe} {TRIAL}")
    for seed in range(options.seeds):
        for method, settings in {**chosen, "sgd": ""}.items():
            queue.train(f"{method}-{precision}-seed-{seed}", f"{recipe} {settings} --seed {seed}")


if __name__ == "__main__":
    main()
