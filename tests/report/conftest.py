"""Fixtures of the report's tests."""

import html

import pytest

from flatnext.report import drawing


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, for tests that look at the text alone: drawing takes nearly all of a report's time."""

    def render(name: str, alt: str, *_: object) -> str:
        return f'<svg role="img"><title>{html.escape(alt)}</title></svg>'

    monkeypatch.setattr(drawing, "render", render)
