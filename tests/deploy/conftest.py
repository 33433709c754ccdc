"""A tiny run, and its packed weights."""

from __future__ import annotations

import shutil

import pytest
from packed import CONFIG, NAME

from flatnext.deploy.pack import pack
from flatnext.models import catalog
from flatnext.training import train


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(CONFIG, folder, command="flatnext train | tee log")
    return folder


@pytest.fixture(scope="session")
def packed(run, tmp_path_factory):
    return pack(run, NAME, tmp_path_factory.mktemp("weights") / "new", licence="cc0-1.0")


@pytest.fixture
def folder(packed, tmp_path, monkeypatch):
    """Return a copy of the folder with the packed weights, which stands for the package's own."""
    folder = tmp_path / "weights"
    shutil.copytree(packed.files[0].parent, folder)
    monkeypatch.setattr(catalog, "WEIGHTS", folder)
    monkeypatch.chdir(tmp_path)
    return folder
