"""What is shown of a long piece of work, on a terminal and in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from flatnext import progress
from flatnext.progress import ConsoleDisplay, Display, Task


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    return clock


def display(terminal: bool, width: int = 80) -> tuple[ConsoleDisplay, io.StringIO]:
    file = io.StringIO()
    return ConsoleDisplay(Console(file=file, force_terminal=terminal, width=width, highlight=False)), file


def test_a_log_gets_a_line_now_and_then(clock: Clock) -> None:
    shown, log = display(terminal=False)
    with shown.task("run", total=100, done=20) as task:
        for done in range(20, 101):
            clock.now += 10
            if task.due():
                task(done, 100, f"step {done}")
        shown.say("[done] 100 %")
    lines = log.getvalue().splitlines()
    assert len(lines) == 81 * 10 // 60 + 1
    assert lines[1].endswith(" left, step 31")
    assert lines[-1] == "[done] 100 %"


def test_the_time_left_is_by_the_pace_since_the_start(clock: Clock) -> None:
    shown, log = display(terminal=False)
    with shown.task("run", total=100, done=50) as task:
        assert task.left(50) == "time left unknown"
        clock.now = 120
        task(60, 100)
        assert task.left(60) == "8 min 00 s left"
    assert log.getvalue() == "run: 60%, 8 min 00 s left\n"


def test_a_terminal_gets_a_bar_with_lines_above_it(clock: Clock) -> None:
    shown, terminal = display(terminal=True)
    with shown.task("run", total=2) as task:
        clock.now = 30
        task(1, 2, "step 1")
        shown.say("half")
    text = terminal.getvalue()
    assert "run: 30 s left, step 1" in text
    assert "half\n" in text
    assert "━" in text


def test_nothing_is_shown_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Display().task("run") as task:
        assert type(task) is Task
        assert not task.due()
        task(1, 2)
    Display().say("x")
    assert capsys.readouterr() == ("", "")
    assert not Display.speaks
    assert ConsoleDisplay.speaks


def test_tasks_that_are_open_at_the_same_time_have_a_bar_each(clock: Clock) -> None:
    shown, terminal = display(terminal=True)
    with shown.task("first") as first:
        with shown.task("second") as second:
            clock.now = 30
            first.show(0.5, "first: half")
            second.show(0.25, "second: a quarter")
            shown.say("a line")
        terminal.truncate(0)
        clock.now = 60
        first.show(0.75, "first: more")
    assert "first: more" in terminal.getvalue()
    assert "second" not in terminal.getvalue().replace("\x00", "").splitlines()[-1]
