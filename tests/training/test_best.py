"""The best epoch: by validation accuracy, of uneven classes by the balanced one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from killing import Killed
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from tiny import AtStep, tiny

from flatnext import data, evaluate, load_predictor
from flatnext.cli import main
from flatnext.errors import FallbackWarning
from flatnext.models import read_weights
from flatnext.runs.folder import RunFolder
from flatnext.runs.scores import Scores
from flatnext.training import train, trainer
from flatnext.training.evaluator import better


def scores(accuracy, loss=1.0, balanced=None):
    return Scores(loss=loss, accuracy=accuracy, count=100, balanced_accuracy=balanced)


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (scores(0.5), None, True),
        (scores(0.6), scores(0.5), True),
        (scores(0.5), scores(0.6), False),
        (scores(0.5, loss=0.9), scores(0.5), True),
        (scores(0.5), scores(0.5), False),
        (scores(0.5, loss=None), scores(0.5), False),
        (scores(0.5, balanced=0.7), scores(0.9, balanced=0.6), True),
        (scores(0.9, balanced=0.6), scores(0.5, balanced=0.7), False),
        (scores(0.5, loss=0.9, balanced=0.1 + 0.2), scores(0.9, balanced=0.3), True),  # the same but for rounding
        # An epoch of an earlier version has no balanced accuracy.
        (scores(0.8, balanced=0.2), scores(0.7), True),
        (scores(0.6, balanced=0.9), scores(0.7), False),
    ],
)
def test_better(new, old, expected):
    assert better(new, old) is expected


def test_a_best_epoch_that_was_undone_is_not_taken_for_an_earlier_one(tmp_path, monkeypatch):
    """The third epoch was the best; its checkpoint is damaged, and the run goes on from the second."""
    folder = tmp_path / "run"
    ranks = iter([False, True, False, False])
    monkeypatch.setattr(trainer, "better", lambda new, old: old is None or next(ranks))

    def die():
        raise Killed

    with pytest.raises(Killed):
        train(tiny(epochs=4), folder, display=AtStep(13, die))
    content = bytearray((folder / "last.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "last.safetensors").write_bytes(content)
    with pytest.warns(FallbackWarning) as caught:
        result = train(tiny(epochs=4), folder, resume=True)
    assert any("best.safetensors is not of epoch 1, the best so far" in str(warning.message) for warning in caught)
    metadata = read_weights(folder / "best.safetensors")[1]
    assert int(metadata["step"]) == 4 * result.best.epoch
    assert result.best.test.accuracy == evaluate(folder, checkpoint="best")["accuracy"]


def paint(folder, sizes):
    """Make a folder of grey pictures of noise, of so many in each class, brighter from class to class."""
    generator = torch.Generator().manual_seed(0)
    for shade, (name, size) in enumerate(sizes.items()):
        for number in range(size):
            file = folder / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(90, (8, 8), generator=generator, dtype=torch.uint8) + 70 * shade
            Image.fromarray(noise.numpy()).save(file)


CONFIG = replace(
    tiny(dataset="folder", image_size=8, train_images=None, validation=None, flip="none", crop_padding=0, epochs=4),
)


def test_of_uneven_classes_the_balanced_accuracy_chooses(tmp_path, capsys):
    paint(tmp_path / "pictures", {"dark": 90, "light": 20})
    result = train(CONFIG, tmp_path / "run", data_dir=tmp_path / "pictures")
    epochs = RunFolder(tmp_path / "run").epochs()
    balanced = [epoch.validation_balanced_accuracy for epoch in epochs]
    assert result.best.epoch in [epoch.epoch for epoch in epochs if epoch.validation_balanced_accuracy == max(balanced)]
    assert result.best.validation.balanced_accuracy == max(balanced)
    split = data.partition(data.load("folder", tmp_path / "pictures", image_size=8), CONFIG.data).validation
    logits = load_predictor(tmp_path / "run", checkpoint="best")(split.images)
    assert max(balanced) == pytest.approx(balanced_accuracy_score(split.labels, logits.argmax(dim=1)))
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert f"best (epoch {result.best.epoch}, by the balanced validation accuracy): " in capsys.readouterr().out


def test_of_even_classes_it_is_not_measured(tmp_path):
    paint(tmp_path / "pictures" / "train", {"dark": 12, "light": 12})
    paint(tmp_path / "pictures" / "val", {"dark": 4, "light": 6})
    paint(tmp_path / "pictures" / "test", {"dark": 4, "light": 6})
    result = train(CONFIG, tmp_path / "run", data_dir=tmp_path / "pictures")
    assert result.best.validation.balanced_accuracy is None
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["validation_balanced_accuracy"] is None
    assert line["validation_accuracy"] is not None
