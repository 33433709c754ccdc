"""A service of a model that tells colours, and how to ask it."""

from __future__ import annotations

import asyncio

import pytest
from asking import ask
from served import write_model

from flatnext.deploy.onnx_model import OnnxModel
from flatnext.serve.app import create_app
from flatnext.serve.service import Service
from flatnext.serve.settings import ServeSettings


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served") / "colours.onnx")


@pytest.fixture
def started(model_file):
    """Return a function that starts a service with some settings, and returns a function that asks it."""
    services = []

    def start(path=model_file, **settings):
        service = Service(OnnxModel(path, threads=1), ServeSettings(**settings))
        services.append(service)
        app = create_app(service)

        def request(method, url, **options):
            return asyncio.run(ask(app, (method, url, options)))[0]

        request.app, request.service = app, service
        return request

    yield start
    for service in services:
        service.close()


@pytest.fixture
def request_(started):
    return started()
