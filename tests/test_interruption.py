"""Signals become `KeyboardInterrupt`, also where a library makes another error of them."""

import io
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from flatnext.interruption import interruptible
from flatnext.study.worker import Worker
from flatnext.training.stop import stop_on_signal


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Set the handlers of a program begun by hand: one in the background ignores SIGINT."""
    defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def hide(number: int) -> None:
    """Send a signal and hide what comes of it, as C code that is interrupted does."""
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), number)
        time.sleep(60)
    raise ValueError("could not determine the shape")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_error_after_a_signal_is_an_interruption(number: int) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, interruptible():
        hide(number)
    assert isinstance(caught.value.__cause__, ValueError)
    assert signal.getsignal(number) is handler


def test_an_error_without_a_signal_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="shape"), interruptible():
        raise ValueError("shape")


def test_a_handler_of_the_program_is_kept() -> None:
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    with interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert came == [signal.SIGTERM]


def test_a_run_leaves_a_signal_ignored_that_its_process_ignores() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_on_signal() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_termination_signal_may_come_twice() -> None:
    with stop_on_signal() as asked:
        for _ in range(2):  # of a supervisor, and of the parent
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_worker_of_a_study_says_that_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "_answer", lambda self, request: hide(signal.SIGTERM))
    output = io.StringIO()
    Worker(io.StringIO('{"run": {}}\n'), output).serve()
    assert json.loads(output.getvalue())["outcome"]["kind"] == "stopped"
