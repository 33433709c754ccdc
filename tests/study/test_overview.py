"""All runs in one view: the line of the study, and its time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tiny import tiny

from flatnext.progress import Display, Task
from flatnext.study import overview
from flatnext.study.assignment import Assignment
from flatnext.study.overview import Overview


class Line(Task):
    """A line of a view that always shows."""

    def __init__(self, lines: dict[str, str], title: str) -> None:
        self.lines, self.title = lines, title

    def due(self) -> bool:
        return True

    def show(self, part: float, text: str) -> None:
        self.lines[self.title] = text


class View(Display):
    """Keeps the lines that are open."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}

    @contextmanager
    def task(self, title: str, total: float = 1.0, done: float = 0.0) -> Iterator[Task]:
        self.lines[title] = ""
        yield Line(self.lines, title)
        del self.lines[title]


def assignment(name: str, seed: int) -> Assignment:
    return Assignment(
        config=tiny(name, seed=seed),
        folder=f"{name}/seed-{seed}",
        data_dir=".data",
        device="cpu",
        download=False,
        command="",
        track=(),
    )


def test_the_study_has_a_line_and_each_run_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(overview.time, "monotonic", lambda: now)
    plain, perturbed, again = assignment("quick", 0), assignment("quick-amp", 0), assignment("quick", 1)
    display = View()  # work: 2 epochs of 1, 2 and 1 passes
    with Overview(display, [plain, perturbed, again]) as view:
        view.begin(plain)
        view.begin(perturbed)
        assert list(display.lines) == ["study", "quick seed 0", "quick-amp seed 0"]
        view.show(plain, 0.0, "quick seed 0: epoch 1")
        view.show(perturbed, 0.5, "quick-amp seed 0: epoch 2")  # goes on where it was
        assert display.lines["study"] == "study: 0 of 3 runs done, 2 under way, 25%, time left unknown"
        now = 60.0
        view.show(plain, 0.5, "quick seed 0: epoch 2")  # a unit of work in a minute, and five are left
        assert display.lines["study"] == "study: 0 of 3 runs done, 2 under way, 38%, 5 min 00 s left"
        assert display.lines["quick seed 0"] == "quick seed 0: epoch 2"
        view.end(plain)
        now = 100.0
        view.end(perturbed)
        assert display.lines == {"study": "study: 2 of 3 runs done, 0 under way, 75%, 50 s left"}
        view.begin(again)
    assert display.lines == {}


def test_a_single_run_needs_no_line_for_the_whole() -> None:
    display = View()
    with Overview(display, [assignment("quick", 0)]) as view:
        view.begin(assignment("quick", 0))
        view.begin(assignment("quick", 0))  # again, after it was lost
        assert list(display.lines) == ["quick seed 0"]
