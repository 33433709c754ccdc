"""Finished runs, each made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import CONFIGS

from flatnext.config import Config
from flatnext.training import train


@pytest.fixture(scope="session")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Path]:
    """Return a function that gives the folder of a config's run, to compare with. Call it before you patch anything."""
    folders: dict[str, Path] = {}

    def folder_of(config: Config) -> Path:
        if (name := repr(config)) not in folders:
            folders[name] = tmp_path_factory.mktemp("whole") / "run"
            train(config, folders[name])
        return folders[name]

    return folder_of


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda c: c.recipe + c.precision)
def whole(request, never_stopped):
    """Return a config and the folder of its run, never stopped."""
    return request.param, never_stopped(request.param)
