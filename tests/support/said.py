"""A display that keeps what was said."""

from __future__ import annotations

from flatnext.progress import Display


class Said(Display):
    """Keeps the lines. It `speaks`, as a terminal does, where that is asked for."""

    def __init__(self, *, speaks: bool = False) -> None:
        self.lines: list[str] = []
        self.speaks = speaks

    def say(self, text: str) -> None:
        self.lines.append(text)
