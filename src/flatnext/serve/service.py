"""The service without HTTP: pictures in, answers out, from one model that one thread owns."""

from __future__ import annotations

import asyncio
import base64
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from flatnext.cpu import cores
from flatnext.deploy.onnx_model import Answer, OnnxModel
from flatnext.deploy.prediction import Prediction, Question
from flatnext.errors import InputError
from flatnext.pictures import PictureError
from flatnext.serve.batcher import MOST, MOST_ALONE, Batcher
from flatnext.serve.decoder import Decoder
from flatnext.serve.metrics import Metrics
from flatnext.serve.settings import COVERAGE, ServeSettings

DECODERS = 2
"""Processes that decode pictures. With large ones each takes some hundred megabytes."""

DECODE_SECONDS = 10.0
"""In which a picture must be decoded, if no less is given to a request. JPEG, PNG, WebP and TIFF of 50 million pixels
took 0.2 to 2.9 (n = 1 each, one core of an AMD EPYC beside other work, 2026-11-29)."""

Outcome = tuple[Prediction, np.ndarray] | PictureError
"""Of an image: the prediction and the activation map (h x w), or why it cannot be read."""


class Service:
    """Answers about pictures. It is closed by `close`, which waits for what was asked before.

    Args:
        model: a loaded model. Its golden images are checked: `InputError` where this machine computes other logits.
        settings: limits, coverage and threshold. `InputError`: the model was not calibrated for the coverage.
    """

    def __init__(self, model: OnnxModel, settings: ServeSettings) -> None:
        self.model, self.manifest, self.settings = model, model.manifest, settings
        model.check_golden()
        self.coverage = self._coverage(settings.coverage)
        self.samples = tuple(base64.b64decode(golden.png) for golden in self.manifest.golden)
        self.metrics = Metrics()
        seconds = min(DECODE_SECONDS, settings.timeout)
        preprocessing = self.manifest.preprocessing
        self._decoders = [Decoder(preprocessing, settings.max_pixels, seconds) for _ in range(DECODERS)]
        self._free: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
        for decoder in self._decoders:
            self._free.put(decoder)
        self._waiters = ThreadPoolExecutor(DECODERS, thread_name_prefix="decoder")
        most = MOST if (settings.threads or cores()) > 1 else MOST_ALONE
        self._batcher = Batcher(model.predict, most=most, observe=self.metrics.batch.observe)

    async def answer(self, pictures: Sequence[bytes], question: Question) -> list[Outcome]:
        """Return what becomes of each picture (the content of a file). `question` has been checked by `question`."""
        answers = await asyncio.gather(*map(self._ask, pictures))
        readable = [answer for answer in answers if isinstance(answer, Answer)]
        self.metrics.images.labels("answered").inc(len(readable))
        self.metrics.images.labels("refused").inc(len(answers) - len(readable))
        predictions = iter(self._predictions(readable, question))
        return [(next(predictions), answer.activation) if isinstance(answer, Answer) else answer for answer in answers]

    def question(self, top: int, coverage: float | None, threshold: float | None) -> Question:
        """Return a question, with the service's coverage and threshold where None. `InputError`: it has no answer."""
        coverage = self.coverage if coverage is None else self._coverage(coverage)
        threshold = self.settings.threshold if threshold is None else threshold
        return Question(top=top, coverage=coverage, threshold=threshold)

    def start(self) -> None:
        """Start the decoders, for which the first pictures would wait otherwise."""
        for decoder in self._decoders:
            decoder.start()

    def close(self) -> None:
        """Answer what was asked, and end the threads and processes."""
        self._waiters.shutdown()
        for decoder in self._decoders:
            decoder.close()
        self._batcher.close()

    async def _ask(self, picture: bytes) -> Answer | PictureError:
        try:
            pixels = await asyncio.get_running_loop().run_in_executor(self._waiters, self._decode, picture)
        except PictureError as error:
            return error
        return await asyncio.wrap_future(self._batcher.submit(pixels))

    def _decode(self, picture: bytes) -> np.ndarray:
        decoder = self._free.get()  # there is one for each thread
        try:
            return decoder(picture)
        finally:
            self._free.put(decoder)

    def _predictions(self, answers: Sequence[Answer], question: Question) -> list[Prediction]:
        if not answers:
            return []
        probabilities = np.stack([answer.probabilities for answer in answers])
        return question.answers(probabilities, self.manifest.classes, self.manifest.conformal)

    def _coverage(self, asked: float | None) -> float | None:
        """Return the coverage to give; None where none is asked for, and the model is not calibrated for `COVERAGE`."""
        conformal = self.manifest.conformal
        if asked is None:
            enough = conformal is not None and conformal.images >= conformal.fewest_images(COVERAGE)
            return COVERAGE if enough else None
        if conformal is None:
            raise InputError(f"coverage is {asked}, and the model was exported without a calibration: leave it out")
        conformal.threshold(asked)
        return asked
