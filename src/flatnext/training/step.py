"""One training step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flatnext.methods import BoundMethod
from flatnext.processes import ALONE, Processes
from flatnext.training.stop import Interrupted


@dataclass(frozen=True)
class StepStats:
    """Sums over this process's images of one step. Loss and correct images are 0-dimensional tensors on the device."""

    loss: Tensor
    correct: Tensor
    count: int
    trained: int  # images of the step's last gradient: more than `count` where the first pass saw a part of them


TakeStep = Callable[[Tensor, Tensor, int, int], StepStats]  # as `Step` is called


@dataclass(frozen=True, kw_only=True)
class Step:
    """Computes a batch's gradient by the method and lets the optimizer take the step.

    `class_weights` (one a class, of the images' type) weigh an image by its class, one with probabilities as images of
    its classes in these shares. Unlike in `torch.nn.functional.cross_entropy` smoothed labels change nothing about
    that: there the share that an image of a common class has of a rare one gets the heavy weight, and wrong answers can
    be the best. A mean is over the images, not over the weights in a batch: so it is the same in parts of a batch.

    The gradient is that of the mean loss over the whole batch, whatever `grad_accum_steps` and the number of
    processes. With several processes the gradient of every pass is summed over them, so that all perturb by the same.
    With the method's `m_sharpness` each process perturbs by the gradient of its own images, clipped to `clip_norm`, and
    only the last gradient, with which the step is taken, is summed. With its `ascent_share` each process takes the
    first images of its own part of the batch, so that they are others than with one process. Batch norm sees a
    micro-batch of one process; its running statistics are averaged over the processes.

    `interrupt` is called before each micro-batch of each pass. Where it raises `Interrupted`, the step is left undone:
    weights, buffers and optimizer are as before it.
    """

    model: nn.Module
    method: BoundMethod
    autocast: Callable[[], AbstractContextManager[object]]
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    clip_norm: float | None = None
    grad_accum_steps: int = 1
    processes: Processes = ALONE
    interrupt: Callable[[], object] | None = None

    def __call__(self, images: Tensor, labels: Tensor, number: int, batch_count: int) -> StepStats:
        """Take step `number` on this process's images (B x C x H x W) and labels of a batch of `batch_count`.

        The labels are classes (int64, B), or probabilities (B x classes), of which the largest counts as the class.
        Returns the statistics of the method's first pass, which is at the unchanged weights if the method has such a
        pass. It may see only the first images of the batch (the method's `ascent_share`).
        """
        if self.interrupt is None or not (self.grad_accum_steps > 1 or self.method.perturbs_at(number)):
            return self._take(images, labels, number, batch_count)
        buffers = list(self.model.buffers())
        before = [buffer.clone() for buffer in buffers]
        try:
            return self._take(images, labels, number, batch_count)
        except Interrupted:
            for buffer, value in zip(buffers, before, strict=True):  # batch norm has counted a part of the batch
                buffer.copy_(value)
            raise

    def _take(self, images: Tensor, labels: Tensor, number: int, batch_count: int) -> StepStats:
        weight = len(labels) / batch_count
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        local = self.method.m_sharpness
        passes = itertools.count()

        def closure() -> StepStats:
            self.method.optimizer.zero_grad(set_to_none=True)
            share = self.method.share(number, next(passes))
            # Batch norm may need two images in each micro-batch.
            count = min(len(labels), max(math.ceil(round(share * len(labels), 9)), 2 * self.grad_accum_steps))
            stats = self._passes(images[:count], labels[:count], 1.0 if local else weight, len(labels))
            if not local:
                self.processes.sum(p.grad for p in parameters if p.grad is not None)
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            return stats

        stats = self.method(closure, images, number, divides=True)
        if self.processes.count > 1:
            if local:
                for p in parameters:
                    if p.grad is not None:
                        p.grad.mul_(weight)
                self.processes.sum(p.grad for p in parameters if p.grad is not None)
            moved = (module for module in self.model.modules() if module.training)  # not frozen statistics
            self.processes.average(
                b for module in moved for b in module.buffers(recurse=False) if b.is_floating_point()
            )
        self.method.optimizer.step()
        return stats

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of some images."""
        if self.class_weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        if labels.ndim == 1:
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
            return (losses * self.class_weights[labels]).mean()
        weighted, log_p = labels * self.class_weights, F.log_softmax(logits, dim=1)
        own, even = -(weighted * log_p).sum(dim=1), -weighted.sum(dim=1) * log_p.mean(dim=1)
        return torch.lerp(own, even, self.label_smoothing).mean()

    def _passes(self, images: Tensor, labels: Tensor, weight: float, trained: int) -> StepStats:
        """Run forward and backward over the micro-batches; the gradient is `weight` times that of the mean loss."""
        loss_sum, correct = torch.zeros((), device=images.device), torch.zeros((), device=images.device)
        # Of equal size but for one image: `chunk` may leave a last one of one image, which batch norm may refuse.
        parts = min(self.grad_accum_steps, len(labels))
        for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            if self.interrupt:
                self.interrupt()
            with self.autocast():
                logits = self.model(x)
            logits = logits.to(images.dtype)  # the loss in full precision
            loss = self._loss(logits, y)
            (loss * (weight * len(y) / len(labels))).backward()
            loss_sum = loss_sum + loss.detach() * len(y)
            labelled = y if y.ndim == 1 else y.argmax(dim=1)
            correct = correct + (logits.detach().argmax(dim=1) == labelled).sum()
        return StepStats(loss_sum, correct, len(labels), trained)
