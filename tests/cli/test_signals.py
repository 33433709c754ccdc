"""A termination signal before the first step ends a command cleanly."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import TINY_FLAGS

from flatnext.cli.main import COMMANDS, main
from flatnext.training import session


@pytest.fixture
def default_signals() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("default_signals")
def test_sigterm_while_data_load_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(session, "load_data", slow)
    output = tmp_path / "runs" / "one"
    assert main(["train", "--recipe", "quick", *TINY_FLAGS, "--output", str(output)]) == 130
    assert "flatnext: interrupted" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.usefixtures("default_signals")
def test_an_error_of_a_library_that_was_interrupted_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(options: object) -> None:
        with suppress(KeyboardInterrupt):  # as C code that is interrupted does
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        raise ValueError("could not determine the shape")

    monkeypatch.setitem(COMMANDS, "weights", SimpleNamespace(**vars(COMMANDS["weights"]) | {"run": load}))
    assert main(["weights"]) == 130
    assert capsys.readouterr().err == "flatnext: interrupted\n"
