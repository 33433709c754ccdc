"""What two processes work out together, and one alone as well: run by test_processes.py in each of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from methods_table import (
    MEAN,
    STD,
    TABLE,
    bn_network,
    image_batches,
    make_step,
    oracle_batches,
    oracle_network,
    oracle_weights,
    to_torch,
)

from flatnext.config import Sgd
from flatnext.data import Normalization, Split
from flatnext.errors import InputError
from flatnext.evaluation import Predictor
from flatnext.processes import join_processes
from flatnext.training.checkpoint import keep_checkpoint, kept_path, read_pair, save_checkpoint
from flatnext.training.divergence import prepare_rollback, roll_back
from flatnext.training.evaluator import Evaluator
from flatnext.training.metric_sums import MetricSums, NonFiniteLossError

STEPS = 10
SIZES = (8, 8, 7)  # 7 images are 4 and 3
CASES = [case for case in TABLE if case.precision == "fp64"]
PER_RANK = [case.but(m_sharpness=True) for case in CASES if not isinstance(case.method, Sgd)]


def train_oracle_network(case, processes):
    """Return the weights after ten steps, and the loss and accuracy of all of them."""
    network = oracle_network(oracle_weights(), "fp64")
    step = make_step(network, case, total_steps=STEPS, processes=processes)
    sums = MetricSums(torch.device("cpu"))
    for number, batch in enumerate(oracle_batches(STEPS, SIZES)):
        images, labels = to_torch(batch, "fp64")
        own = processes.share(images).clone(), processes.share(labels)
        sums.add(step(*own, number, len(labels)), number)
    return {"weights": [p.detach() for p in network.parameters()], "metrics": sums.means(processes)[:2]}


def train_bn_network(case, processes):
    """Return the buffers of a network with batch norm after one step, and its state after three."""
    network = bn_network("fp64")
    step = make_step(network, case, total_steps=STEPS, processes=processes)
    first = {}
    for number, (images, labels) in enumerate(image_batches(3, "fp64")):
        step(processes.share(images).clone(), processes.share(labels), number, len(labels))
        first = first or {name: buffer.clone() for name, buffer in network.named_buffers()}
    return {"first": first, "last": network.state_dict()}


def predict(count, processes):
    images = torch.arange(count * 48).mul(37).remainder(256).to(torch.uint8).view(count, 3, 4, 4)
    predictor = Predictor(
        model=bn_network("fp64"),
        classes=tuple("abcd"),
        normalization=Normalization(MEAN, STD),
        device=torch.device("cpu"),
        precision="fp64",
        channels_last=False,
    )
    evaluator = Evaluator(predictor=predictor, partition=None, processes=processes)
    return evaluator.predict(Split(images, torch.zeros(count, dtype=torch.int64)))


def error_of(function):
    """Return the kind and the arguments of the error that a function raises."""
    try:
        function()
    except (InputError, NonFiniteLossError) as error:
        return type(error).__name__, error.args
    return None


def bad_loss(processes):
    """Return the error of a check after a loss of the last process alone was not finite."""
    sums = MetricSums(torch.device("cpu"))
    for step in range(5):
        bad = step == 3 and processes.rank == processes.count - 1
        loss = torch.tensor(torch.nan if bad else 1.0)
        sums.add(SimpleNamespace(loss=loss, correct=torch.tensor(1), count=2, trained=2), step)
    return error_of(lambda: sums.check(processes))


def exchanges(processes, log):
    """Return what the small messages between processes give."""
    called = []

    def fetch():
        with log.open("a") as file:
            file.write(f"{processes.rank}\n")
        return processes.rank

    def refuse():
        raise InputError("no such file: give another")

    tensors = [torch.full((2, 3), 1.0 + processes.rank).t(), torch.tensor(10.0 * processes.rank)]
    processes.sum(tensors)
    averaged = [torch.tensor([2.0, 4.0 * processes.rank])]
    processes.average(averaged)
    return {
        "any": processes.any([False, processes.rank == 1, True]),
        "on_first": processes.on_first(lambda: called.append(processes.rank) or {"rank": processes.rank}),
        "called": called,
        "error": error_of(lambda: processes.on_first(refuse)),
        "first_then_others": processes.first_then_others(fetch),
        "sum": tensors,
        "average": averaged,
        "share": processes.share(torch.arange(7)),
    }


def rollback(processes, folder):
    """Return what a run does where the first process alone sees the checkpoint to go back to, or only the other."""
    found = {}
    for owner in (0, 1):
        own = folder / f"seen-by-{owner}" / str(processes.rank)
        own.mkdir(parents=True)
        if processes.rank == owner:
            save_checkpoint(own, torch.nn.Linear(2, 2), {"epoch": 0}, 0, {"step": "0"})
            keep_checkpoint(own, 0, 1)
        saved = []
        run = SimpleNamespace(
            epoch=0, step_in_epoch=0, processes=processes, folder=SimpleNamespace(path=own), rollbacks=()
        )
        run.rate_factor = 1.0
        run.save = lambda saved=saved: saved.append(processes.any([False]))  # all processes must call it
        prepare_rollback(run)
        found[owner] = {"saved": len(saved), "words": roll_back(run, 3)}
        if processes.rank == 0 == owner:
            read_pair(own, kept_path(own, 0))  # it could have gone back
    return found


def work(processes):
    """Return everything that two processes and one must agree on."""
    kept = MetricSums(torch.device("cpu"))
    kept.load_state_dict({"sums": torch.tensor([6.0, 3.0, 12.0], dtype=torch.float64), "seconds": 2.0}, processes)
    return {
        "cases": {str(case): train_oracle_network(case, processes) for case in CASES},
        "m_sharpness": {str(case): train_oracle_network(case, processes) for case in PER_RANK},
        "predict": {count: predict(count, processes) for count in (1, 2, 11)},
        "bad_loss": bad_loss(processes),
        "loaded": kept.state_dict(processes),
    }


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with join_processes("cpu") as (processes, device):
        result = work(processes)
        result["batch_norm"] = {str(case): train_bn_network(case, processes) for case in CASES}
        result["exchanges"] = exchanges(processes, folder / "log")
        result["rollback"] = rollback(processes, folder)
        with join_processes("cpu") as (again, _):  # a program that has a group already
            result["again"] = (again.rank, again.count, again.any([again.rank == 1]))
        result["device"] = device
        torch.save(result, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main()
