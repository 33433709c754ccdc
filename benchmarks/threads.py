"""Training speed by number of threads and by how they wait: alone, beside a busy process, and two trainings at a time.

    python benchmarks/threads.py --rounds 3 --json threads.json

Each contender is a process that trains random images when it is asked to. `chosen` has as many threads as `flatnext
train` chooses in that very situation. Rounds begin one contender further on than the round before; figures are medians
of images a second, of both together where two train.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

WORKLOADS = {
    "digits, batch 32": {"recipe": "quick", "image_size": 8, "batch_size": 32},
    "32x32, batch 16": {"recipe": "sgd", "image_size": 32, "batch_size": 16},
}
WAITS: dict[str, dict[str, str]] = {
    "spin": {},
    "short spin": {"GOMP_SPINCOUNT": "1000"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}
SITUATIONS = ("alone", "beside a busy process", "two at a time")
SECONDS = 4.0


def serve() -> None:
    """Train on request: a JSON object a line, each way."""
    import torch

    from flatnext.bench.contender import Contender, random_partition
    from flatnext.config import recipe
    from flatnext.training.threads import fastest, measured_rates, thread_numbers

    contenders: dict[str, Contender] = {}
    numbers = thread_numbers(torch.get_num_threads())
    for line in sys.stdin:
        request = json.loads(line)
        name, seconds = request["workload"], request["seconds"]
        if name not in contenders:
            workload = dict(WORKLOADS[name])
            config = recipe(workload.pop("recipe")).override({**workload, "precision": "fp32"})
            partition = random_partition(1024, workload["image_size"])
            contenders[name] = Contender(config, partition, torch.device("cpu"))
            contenders[name].train(2)
        contender = contenders[name]
        threads = request["threads"] or fastest(measured_rates(contender.run, numbers))
        torch.set_num_threads(threads)
        contender.train(1)
        began, steps = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            contender.train(1)
            steps += 1
        rate = steps * contender.run.config.batch_size / (time.monotonic() - began)
        print(json.dumps({"rate": rate, "threads": threads}), flush=True)


class Trainer:
    """A process that trains on request, with one way of waiting."""

    def __init__(self, wait: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))} | WAITS[wait]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **request: Any) -> None:
        """Send a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for an answer."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


@contextmanager
def busy(on: bool) -> Iterator[None]:
    """Keep one core busy by another process within the block."""
    if not on:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def measure(trainers: list[Trainer], workload: str, threads: int, situation: str) -> dict[str, Any]:
    """Return the images a second of a contender in a situation, and its threads."""
    working = trainers if situation == "two at a time" else trainers[:1]
    with busy(situation == "beside a busy process"):
        for trainer in working:
            trainer.ask(workload=workload, threads=threads, seconds=SECONDS)
        answers = [trainer.answer() for trainer in working]
    return {"rate": sum(a["rate"] for a in answers), "threads": [a["threads"] for a in answers]}


def main() -> None:
    """Measure and print a table a workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--json")
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        return serve()
    cores = len(os.sched_getaffinity(0))
    contenders = [(wait, threads) for wait in WAITS for threads in (cores, 1, 0) if wait != "spin" or threads == cores]
    samples = []
    with ExitStack() as stack:
        trainers = {wait: [Trainer(wait), Trainer(wait)] for wait in WAITS}
        for pair in trainers.values():
            for trainer in pair:
                stack.callback(trainer.process.kill)
        for number in range(options.rounds):
            for workload in options.workloads:
                for situation in SITUATIONS:
                    for place in range(len(contenders)):
                        wait, threads = contenders[(place + number) % len(contenders)]
                        sample = measure(trainers[wait], workload, threads, situation)
                        sample |= {
                            "workload": workload,
                            "situation": situation,
                            "wait": wait,
                            "asked": threads,
                            "round": number,
                        }
                        print(json.dumps(sample), file=sys.stderr, flush=True)
                        samples.append(sample)
    for workload in options.workloads:
        print(f"\n{workload}\n\n| wait | threads | {' | '.join(SITUATIONS)} |\n|---|---|{'---|' * len(SITUATIONS)}")
        for wait, threads in contenders:
            cells = []
            for situation in SITUATIONS:
                mine = [
                    s
                    for s in samples
                    if (s["workload"], s["situation"], s["wait"], s["asked"]) == (workload, situation, wait, threads)
                ]
                rate = statistics.median(s["rate"] for s in mine)
                chosen = sorted({n for s in mine for n in s["threads"]})
                cells.append(f"{rate:.1f}" + (f" ({' or '.join(map(str, chosen))})" if not threads else ""))
            print(f"| {wait} | {threads or 'chosen'} | {' | '.join(cells)} |")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"cores": cores, "seconds": SECONDS, "samples": samples}, file, indent=1)


if __name__ == "__main__":
    main()
