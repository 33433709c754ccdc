"""A finished run of each of some configs."""

import pytest
from tiny import CONFIGS

from flatnext.training import train


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda c: c.recipe + c.precision)
def whole(request, tmp_path_factory):
    """Return a config and the folder of its run, never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(request.param, folder)
    return request.param, folder
