import threading

import numpy as np
import pytest

from flatnext.deploy.onnx_model import Answer
from flatnext.serve.batcher import MOST, Batcher


def picture(value):
    return np.full((3, 2, 2), value, np.uint8)


def echo(images):
    values = images[:, 0, 0, 0].astype(np.float32)
    return Answer(values[:, None], values[:, None], np.zeros((len(images), 1, 1), np.float32))


class Slow:
    """Answers like `echo`, but the first batch only when `go` is set."""

    def __init__(self):
        self.go, self.began, self.sizes = threading.Event(), threading.Event(), []

    def __call__(self, images):
        self.sizes.append(len(images))
        self.began.set()
        assert self.go.wait(10)
        return echo(images)


@pytest.fixture
def slow():
    model = Slow()
    batcher = Batcher(model)
    yield model, batcher
    model.go.set()
    batcher.close()


def test_each_gets_its_own_answer():
    batcher = Batcher(echo)
    futures = [batcher.submit(picture(value)) for value in range(100)]
    assert [future.result(10).logits.tolist() for future in futures] == [[value] for value in range(100)]
    batcher.close()


def test_what_waits_is_one_batch_and_no_larger_than_allowed(slow):
    model, batcher = slow
    first = batcher.submit(picture(0))
    assert model.began.wait(10)
    others = [batcher.submit(picture(1)) for _ in range(MOST + 3)]
    model.go.set()
    assert [future.result(10) for future in [first, *others]]
    assert model.sizes == [1, MOST, 3]


def test_who_went_away_is_not_computed(slow):
    model, batcher = slow
    batcher.submit(picture(0))
    assert model.began.wait(10)
    gone, stays = batcher.submit(picture(1)), batcher.submit(picture(2))
    assert gone.cancel()
    model.go.set()
    assert stays.result(10).logits.tolist() == [2]
    assert model.sizes == [1, 1]


def test_close_answers_what_was_submitted(slow):
    model, batcher = slow
    futures = [batcher.submit(picture(value)) for value in range(70)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    model.go.set()
    closing.join(10)
    assert [future.result(0).logits.item() for future in futures] == list(range(70))


def test_an_error_belongs_to_its_batch_alone():
    def predict(images):
        if images.max() == 9:
            raise RuntimeError("nine")
        return echo(images)

    batcher = Batcher(predict)
    with pytest.raises(RuntimeError, match="nine"):
        batcher.submit(picture(9)).result(10)
    assert batcher.submit(picture(1)).result(10).logits.item() == 1
    batcher.close()
