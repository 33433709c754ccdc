"""A service of a model that tells colours, and how to ask it."""

from __future__ import annotations

import pytest
from asking import start
from served import write_model


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served") / "colours.onnx")


@pytest.fixture
def started(model_file):
    """Return a function that starts a service with some settings, of another model where a path is given."""
    services = []
    yield lambda path=model_file, **settings: start(services, path, **settings)
    for service in services:
        service.close()


@pytest.fixture(scope="session")
def request_(model_file):
    """Return a function that asks a service with the default settings."""
    services = []
    yield start(services, model_file)
    services[0].close()
