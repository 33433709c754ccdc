"""`flatnext compare`: what it prints and writes, and its exit status."""

import json

import numpy as np
import pytest
from fake_classifier import classifier


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Return 40 labelled images, of which the old model has all right and the new one 38."""
    grey = np.linspace(0, 255, 40).astype(np.uint8)
    labels = np.where(grey < 64, 0, np.where(grey < 192, 1, 2))
    np.savez(tmp_path / "some.npz", images=np.broadcast_to(grey[:, None, None, None], (40, 4, 4, 3)), labels=labels)

    def worse(pixels):
        logits = classifier().logits(pixels)
        wrong = np.isin(pixels[:, 0, 0, 0], grey[:2])
        return np.where(wrong[:, None], logits[:, ::-1], logits)

    known = {"old": classifier(), "new": classifier(logits=worse)}
    monkeypatch.setattr("flatnext.deploy.compare.load", lambda path, **_: known[str(path)])
    # There are no weights that could say what they were trained on.
    monkeypatch.setattr("flatnext.evaluation.trained_model._require_unseen", lambda *_: None)
    return tmp_path / "some.npz"


def test_it_says_what_changed(run, images):
    status, out, _ = run("compare", "old", "new", "--test-set", images)
    assert status == 0
    assert "100.00 % with old and 95.00 % with new" in out
    assert "2 images went wrong and 0 images became right" in out


def test_json(run, images):
    status, out, _ = run("compare", "old", "new", "--test-set", images, "--format", "json")
    content = json.loads(out)
    assert status == 0
    assert (content["lost_images"], content["gained_images"]) == ([1, 0], []) or sorted(content["lost_images"]) == [
        0,
        1,
    ]
    assert content["difference"] == pytest.approx(-0.05)


@pytest.mark.parametrize(("limit", "status"), [(0, 1), (4.99, 1), (5, 0), (10, 0)])
def test_the_exit_status_says_whether_it_is_worse(run, images, limit, status):
    assert run("compare", "old", "new", "--test-set", images, "--fail-if-worse", limit)[0] == status
    assert run("compare", "new", "old", "--test-set", images, "--fail-if-worse", limit)[0] == 0


def test_a_page_is_written_and_not_over_another(run, images, tmp_path):
    command = ("compare", "old", "new", "--test-set", images, "--output", tmp_path / "page.html")
    status, out, _ = run(*command)
    assert status == 0
    assert "page.html" in out
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    status, _, err = run(*command)
    assert status == 2
    assert "exists" in err
    assert run(*command, "--overwrite")[0] == 0
    assert run(*command[:-1], tmp_path / "new" / "folder" / "page.html")[0] == 0


@pytest.mark.parametrize("limit", ["-1", "101", "nan"])
def test_a_limit_that_is_none_is_refused(run, images, limit):
    assert run("compare", "old", "new", "--test-set", images, f"--fail-if-worse={limit}")[0] == 2
