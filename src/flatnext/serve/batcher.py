"""The batcher: one thread owns the model, and images that wait at the same time are answered in one batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from flatnext.deploy.onnx_model import Answer

MOST = 16
"""Images in a batch. More are not faster on a CPU, and all of them wait for the last."""

MOST_ALONE = 4
"""The same where one thread computes it: of larger ones its cache holds less."""

Job = tuple[np.ndarray, "Future[Answer]"]


class Batcher:
    """Answers images one by one for its callers, and in batches for the model.

    A batch is made of what is there: nothing waits for more to come. While the model computes one, the next gathers.

    Args:
        predict: maps a batch (uint8, N x C x H x W) to its answer. Only this object's thread calls it.
        most: images in a batch.
        observe: called with the size of each batch.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], Answer],
        *,
        most: int = MOST,
        observe: Callable[[int], object] = lambda images: None,
    ) -> None:
        self._predict, self._most, self._observe = predict, most, observe
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model")
        self._thread.start()

    def submit(self, pixels: np.ndarray) -> Future[Answer]:
        """Return the future answer for an image (uint8, C x H x W), without the batch dimension; it can be cancelled.

        All images have the same shape. Any thread may call it.
        """
        future: Future[Answer] = Future()
        self._jobs.put((pixels, future))
        return future

    def close(self) -> None:
        """Answer what was submitted, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._gather()
            wanted = [(pixels, future) for pixels, future in jobs if future.set_running_or_notify_cancel()]
            if wanted:
                self._observe(len(wanted))
                self._answer(wanted)

    def _gather(self) -> tuple[list[Job], bool]:
        """Wait for a job and take those that are there as well. Return them, and whether more may come."""
        jobs: list[Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == self._most:
                return jobs, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return jobs, True
        return jobs, False

    def _answer(self, jobs: list[Job]) -> None:
        try:
            answer = self._predict(np.stack([pixels for pixels, _ in jobs]))
        except Exception as error:  # it belongs to those who wait for it; the thread goes on
            for _, future in jobs:
                future.set_exception(error)
            return
        for index, (_, future) in enumerate(jobs):
            future.set_result(Answer(*(values[index] for values in answer)))
