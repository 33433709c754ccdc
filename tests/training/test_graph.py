"""Steps that are recorded and replayed, with a recorder that keeps the work and calls it again in the graph's place."""

from __future__ import annotations

import contextlib
import copy
import weakref
from dataclasses import replace

import pytest
import torch
from methods_table import METHODS, Case, bits, bn_network, image_batches, make_step, same_bits
from replay import Again
from same_run import assert_same_run
from tiny import AtStep, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from flatnext.config import Amp, Sgd
from flatnext.config.method import Rmp
from flatnext.errors import InputError
from flatnext.training import train, trainer
from flatnext.training.graph import WARM_UP, CudaRecorder, GraphStep, recordable
from flatnext.training.optimizer import fuse

CASES = [Case(method, "fp32") for method in METHODS[1:]]
CASES += [Case(method, "bf16", grad_accum_steps=3, clip_norm=0.1) for method in METHODS[1::3]]
CASES += [replace(case, method=replace(case.method, radius_schedule="warmup")) for case in CASES[1::2]]
STEPS = 25
cases = pytest.mark.parametrize("case", CASES, ids=str)


def both(case, total_steps=STEPS):
    """Return two equal models, and the step of the first one as usual, of the second one replayed."""
    models = bn_network(case.precision), bn_network(case.precision)
    plain, replayed = (make_step(model, case, total_steps=total_steps) for model in models)
    return models, plain, GraphStep(replayed, Again())


def batch(number, case):
    """Return the batch of a step: every fourth is smaller, as the last of an epoch may be."""
    return image_batches(1, case.precision, size=3 if number % 4 == 3 else 6)[0]


def take(step, number, case):
    """Take a step at a rate that is another one in every step."""
    method = step.step.method if isinstance(step, GraphStep) else step.method
    for group in method.optimizer.param_groups:
        group["lr"] = 0.1 / (1 + number)
    images, labels = batch(number, case)
    return step(images + number / 10, labels, number, len(labels))


@cases
def test_replayed_steps_are_the_same_to_the_bit(case):
    models, plain, replayed = both(case)
    for number in range(STEPS):
        left, right = take(plain, number, case), take(replayed, number, case)
        assert torch.equal(left.loss, right.loss)
        assert torch.equal(left.correct, right.correct)
        assert left.count == right.count
        assert same_bits(*(model.state_dict().values() for model in models)), number
    assert replayed.recorder.replayed > 5
    states = [step.method.optimizer.state_dict() for step in (plain, replayed.step)]
    assert states[0]["param_groups"] == states[1]["param_groups"]  # the rate is a number to all others


@pytest.mark.parametrize("interval", [1, 2, 3])
@pytest.mark.parametrize("method", [Amp(), Rmp(), Amp(radius_schedule="decay"), Sgd()], ids=lambda m: str(Case(m)))
def test_each_kind_of_step_is_recorded_once(method, interval):
    case = Case(method if isinstance(method, Sgd) else replace(method, perturb_every=interval), "fp32")
    _, _, replayed = both(case, total_steps=60)
    for number in range(60):
        take(replayed, number, case)
    kinds = {(number % 4 == 3, number % interval == 0 and method.name != "sgd") for number in range(60)}
    recorder = replayed.recorder
    assert recorder.recorded == len(kinds)
    assert recorder.ran + recorder.replayed == 60
    assert recorder.ran == WARM_UP * len(kinds) + 1  # the first step makes the momentum
    assert len(recorder.generators) == (method.name == "rmp")


@pytest.mark.parametrize("case", CASES[::2], ids=str)
def test_a_resumed_run_of_replayed_steps_is_the_same_to_the_bit(case):
    models, plain, replayed = both(case)
    for number in range(STEPS):
        take(plain, number, case)
        if number == 12:
            kept = copy.deepcopy((models[1].state_dict(), replayed.step.method.optimizer.state_dict()))
            models = models[0], bn_network(case.precision)
            replayed = GraphStep(make_step(models[1], case, total_steps=STEPS), Again())
            models[1].load_state_dict(kept[0])
            replayed.step.method.optimizer.load_state_dict(kept[1])
        take(replayed, number, case)
    assert same_bits(*(model.state_dict().values() for model in models))


def test_a_result_stays_when_the_step_is_replayed():
    case = Case(Amp(), "fp32")
    _, _, replayed = both(case)
    seen = [take(replayed, 4 * number, case) for number in range(12)]
    values = [float(stats.loss) for stats in seen]
    assert len(set(values)) == 12
    kept = seen[-1].loss
    take(replayed, 48, case)
    assert float(kept) == values[-1]


def test_what_lies_elsewhere_is_recorded_anew():
    case = Case(Amp(), "fp32")
    models, plain, replayed = both(case)
    optimizers = plain.method.optimizer, replayed.step.method.optimizer
    for number in range(0, 80, 4):
        if number == 40:
            for optimizer in optimizers:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        take(plain, number, case)
        take(replayed, number, case)
    assert replayed.recorder.recorded == 2
    assert same_bits(*(model.state_dict().values() for model in models))


@pytest.mark.parametrize("case", CASES[: len(METHODS) - 1], ids=str)
def test_a_replayed_step_asks_the_device_for_nothing(case):
    """A recorded step may neither read a value back nor bring one from the host: it is the same work every time."""
    waits = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "equal")
    found, (images, labels) = [], image_batches(1)[0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            if function.overloadpacket.__name__ in waits:
                found.append(str(function))
            return function(*arguments, **(options or {}))

    # SGD in one kernel reads its rate on the device; the form with a kernel an operation would ask for it.
    model = bn_network("fp32")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    replayed = GraphStep(make_step(model, case, optimizer=optimizer, total_steps=60), Again())
    for number in range(0, 60, 6):
        with Watch():
            replayed(images, labels, number, len(labels))
        if not replayed.recorder.replayed:
            found.clear()  # steps before the recording may wait
    assert replayed.recorder.replayed > 3
    assert not found


def test_a_run_goes_on_when_recording_fails():
    case = Case(Amp(), "fp32")
    models, taken, replayed = both(case)

    class Failing(Again):
        def record(self, work, generators):
            raise InputError("the step cannot be recorded")

    replayed.recorder = Failing()
    for number in range(0, 32, 4):
        take(taken, number, case)
        message = (
            "cannot be recorded; the run goes on without" if number == 4 * (WARM_UP + 1) else None
        )  # momentum begins with the second
        with pytest.warns(UserWarning, match=message) if message else contextlib.nullcontext():
            take(replayed, number, case)
    assert same_bits(bits(models[0].state_dict().values()), models[1].state_dict().values())
    assert all(isinstance(group["lr"], float) for group in replayed.optimizer.param_groups)


@pytest.mark.parametrize("name", ["quick", "quick-amp"])
def test_a_run_of_replayed_steps_ends_the_same(tmp_path, monkeypatch, name):
    config = tiny(name, epochs=4)
    train(config, tmp_path / "plain", device="cpu")
    recorders = []

    def recorder(device):
        recorders.append(Again())
        return recorders[-1]

    monkeypatch.setattr(trainer, "recordable", lambda step, device: True)
    monkeypatch.setattr(trainer, "CudaRecorder", recorder)
    train(config, tmp_path / "replayed", device="cpu", display=AtStep(0, None))
    assert len(recorders) == 1
    assert recorders[0].replayed > 4
    assert_same_run(tmp_path / "plain", tmp_path / "replayed")
    train(config.override({"cuda_graph": False}), tmp_path / "off", device="cpu")
    assert len(recorders) == 1


def test_only_one_process_with_float32_on_a_gpu_is_recorded():
    step = make_step(bn_network(), Case(Amp(), "fp32"))
    assert not recordable(step, torch.device("cpu"))
    assert not recordable(step, torch.device("cuda"))  # not SGD in one kernel
    groups = step.method.optimizer.param_groups
    for group in groups:
        group["fused"] = True
    assert recordable(step, torch.device("cuda"))
    fuse(step.method.optimizer)  # on a CPU torch chooses
    assert all(group["fused"] is None for group in groups)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_in_one_kernel_is_the_same_to_rounding(nesterov):
    models = bn_network(), bn_network()
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 1e-2}
    case = Case(Amp(epsilon=0.05), "fp32")
    for model, fused in zip(models, (None, True), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), fused=fused, **options)
        step = make_step(model, case, optimizer=optimizer)
        for number, (images, labels) in enumerate(image_batches(25)):
            step(images, labels, number, len(labels))
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_pool_of_what_is_recorded_outlives_the_recordings(monkeypatch):
    """CUDA's allocator refuses to record into a pool all of whose graphs are gone (pytorch/pytorch pull 133600)."""
    graphs = []

    class Graph:
        def __init__(self):
            graphs.append(weakref.ref(self))

        def replay(self):
            pass

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, **__: contextlib.nullcontext())
    recorder = CudaRecorder(torch.device("cuda"))
    for _ in range(2):
        replay = recorder.record(lambda: None, [])
        del replay
    assert [graph() is None for graph in graphs] == [True, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_recording_anew_on_a_gpu():
    device, case = torch.device("cuda"), Case(Amp(), "fp32")
    step = make_step(bn_network("fp32").to(device), case)
    fuse(step.method.optimizer)
    replayed = GraphStep(step, CudaRecorder(device))
    images, labels = (t.to(device) for t in image_batches(1)[0])
    for number in range(16):
        if number == 8:
            step.method.optimizer.load_state_dict(copy.deepcopy(step.method.optimizer.state_dict()))
        assert torch.isfinite(replayed(images, labels, number, len(labels)).loss)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@cases
def test_replayed_on_a_gpu_as_taken_there(case):
    device = torch.device("cuda")
    models = bn_network(case.precision).to(device), bn_network(case.precision).to(device)
    steps = [make_step(model, case, total_steps=STEPS) for model in models]
    for index, step in enumerate(steps):
        fuse(step.method.optimizer)
        step.method.optimizer.param_groups[0]["lr"] = 0.125  # the same in single precision, which a recording has
        steps[index] = replace(step, autocast=lambda: torch.autocast("cuda", torch.bfloat16, case.precision == "bf16"))
    replayed = GraphStep(steps[1], CudaRecorder(device))
    for number in range(STEPS):
        images, labels = (t.to(device) for t in batch(number, case))
        results = [step(images + number / 10, labels, number, len(labels)) for step in (steps[0], replayed)]
        torch.testing.assert_close(results[0].loss, results[1].loss, rtol=1e-3, atol=1e-3)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
