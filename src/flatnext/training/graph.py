"""A step recorded once and replayed, so that a GPU gets all of its passes and the optimizer's step in one launch.

A small network leaves a GPU waiting for the host, which launches about a thousand kernels a step one by one; a CUDA
graph launches them together. What changes from step to step is kept in tensors that the recorded work reads: the images
and labels, the learning rate and the radius of the perturbation. Steps that launch other kernels (a plain one among
perturbed ones, another batch or image size) are recorded separately. Recording takes no extra step: the first steps of
a kind are taken as usual, which also warms the libraries up, and then the work is recorded without being run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from flatnext.errors import InputError, warn_of_fallback
from flatnext.training.step import Step, StepStats

T = TypeVar("T")

WARM_UP = 3  # steps of a kind that are taken as usual before it is recorded


class Recorder(Protocol):
    """Runs work as recording needs it to be run, or records it to be replayed."""

    def run(self, work: Callable[[], T]) -> T:
        """Run the work once."""

    def record(self, work: Callable[[], T], generators: Iterable[torch.Generator]) -> Callable[[], T]:
        """Return what runs the work each time it is called, on the same tensors; its result is overwritten then."""


class CudaRecorder:
    """Records CUDA graphs, which share the memory of their passes: only one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # one for warming up and recording, as cuBLAS has a handle a stream
        self.pool = torch.cuda.graph_pool_handle()
        self.last: torch.cuda.CUDAGraph | None = None  # kept, as a pool ends with the last of its graphs

    def run(self, work: Callable[[], T]) -> T:
        """Run the work on the stream that recording uses; the caller's stream waits for it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = work()
        current.wait_stream(self.stream)
        return result

    def record(self, work: Callable[[], T], generators: Iterable[torch.Generator]) -> Callable[[], T]:
        """Record the work without running it. `InputError`: it does something that no graph can hold."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = work()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"the step cannot be recorded as a CUDA graph ({reason})") from error
        self.last = graph

        def replay() -> T:
            graph.replay()
            return result

        return replay


@dataclass(frozen=True)
class _Recording:
    """Recorded work and the tensors that it takes its batch from."""

    images: Tensor
    labels: Tensor
    replay: Callable[[], StepStats]


class GraphStep:
    """Takes a step as `Step` does, by replaying it. It has no state of its own that a checkpoint would need.

    Model and optimizer may be changed in place between steps; if their tensors are replaced by others, as
    `Optimizer.load_state_dict` does, everything is recorded anew. `step` must be that of one process. If a step cannot
    be recorded, there is a warning, no more are recorded, and steps of other kinds are taken as usual.
    """

    def __init__(self, step: Step, recorder: Recorder) -> None:
        self.step, self.recorder = step, recorder
        self.optimizer = step.method.optimizer
        weight = next(step.model.parameters())
        rate_type = torch.promote_types(weight.dtype, torch.float32)  # CUDA's fused SGD reads float32
        self.rates = [torch.zeros((), dtype=rate_type, device=weight.device) for _ in self.optimizer.param_groups]
        # In double precision, as the host has it when it is a number.
        self.radius = torch.zeros((), dtype=torch.float64, device=weight.device)
        self._step = replace(step, method=replace(step.method, radius=self.radius))
        self._tensors = [*step.model.parameters(), *step.model.buffers()]
        self._addresses: list[int] = []
        self._taken: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}
        self._failed = False  # to record: a run is not lost for that

    def __call__(self, images: Tensor, labels: Tensor, number: int, batch_count: int) -> StepStats:
        """Take step `number` on a batch; for arguments and result see `Step`."""
        self._forget_if_moved()
        kind = (self.step.method.perturbs_at(number), batch_count, *_kind(images), *_kind(labels))
        taken = self._taken[kind] = self._taken.get(kind, 0) + 1
        if taken > WARM_UP and kind not in self._recordings and not self._failed:
            self._try_to_record(kind, images, labels, number, batch_count)
        if kind not in self._recordings:
            return self.recorder.run(lambda: self._as_usual(images, labels, number, batch_count))
        recording = self._recordings[kind]
        recording.images.copy_(images)
        recording.labels.copy_(labels)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._step.method.prepare(number)
        stats = recording.replay()
        return replace(stats, loss=stats.loss.clone(), correct=stats.correct.clone())

    def _as_usual(self, images: Tensor, labels: Tensor, number: int, batch_count: int) -> StepStats:
        """Take a step, under autocast as it is in recording: a compiled model would be compiled anew there."""
        with _without_autocast_cache():
            return self.step(images, labels, number, batch_count)

    def _try_to_record(self, kind: Hashable, images: Tensor, labels: Tensor, number: int, batch_count: int) -> None:
        try:
            self._recordings[kind] = self._record(images, labels, number, batch_count)
        except InputError as error:
            self._failed = True
            warn_of_fallback(f"{error}; the run goes on without, and more slowly")

    def _record(self, images: Tensor, labels: Tensor, number: int, batch_count: int) -> _Recording:
        """Record a step on copies of a batch."""
        images, labels = images.clone(), labels.clone()
        noise = self._step.method.generator

        def work() -> StepStats:
            with self._rates_as_tensors(), _without_autocast_cache():
                return self._step(images, labels, number, batch_count)

        return _Recording(images, labels, self.recorder.record(work, [noise] if noise else []))

    def _forget_if_moved(self) -> None:
        """Drop what was recorded if a weight, a buffer or the optimizer's state lies elsewhere in memory by now."""
        states = chain.from_iterable(state.values() for state in self.optimizer.state.values())
        tensors = chain(self._tensors, (value for value in states if isinstance(value, Tensor)))
        addresses = [tensor.data_ptr() for tensor in tensors]
        if addresses != self._addresses:
            self._addresses = addresses
            self._taken.clear()
            self._recordings.clear()

    @contextmanager
    def _rates_as_tensors(self) -> Iterator[None]:
        """Let the optimizer take its learning rates from tensors; for all others they stay numbers."""
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"] = rate
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number


def _kind(tensor: Tensor) -> tuple[Hashable, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """Have autocast keep no narrow copies of the weights: they would be those of the time of recording."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def recordable(step: Step, device: torch.device) -> bool:
    """Return whether the step can be a CUDA graph: on a GPU, in one process, with SGD in one kernel in float32.

    That kernel is the one that takes its learning rate from the device; it reads it in single precision.
    """
    groups = step.method.optimizer.param_groups
    return (
        device.type == "cuda"
        and step.processes.count == 1
        and all(group.get("fused") for group in groups)
        and all(p.dtype == torch.float32 for group in groups for p in group["params"])
    )
