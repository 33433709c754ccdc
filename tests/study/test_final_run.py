"""The run that a study advises."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from fake_study import small_study, write_json, write_run

from flatnext import cli
from flatnext.cli.train import config_and_folder
from flatnext.config import recipe
from flatnext.errors import InputError
from flatnext.study.final_run import final_run


def test_it_is_the_advised_recipe_on_all_the_images(tmp_path):
    study = small_study(tmp_path / "study", seeds=5)
    found = final_run(study)
    advised = json.loads((study / "amp" / "seed-0" / "config.json").read_text())
    assert found.config.recipe == "amp"
    assert found.config.to_json() == {**advised, "data": {**advised["data"], "validation": 0}}
    assert found.why.startswith("Take amp, the highest mean test accuracy")
    assert found.why.endswith("all the training images: none are held out, so the last epoch is kept.")
    assert found.data_dir is None  # nothing lies there


def test_it_is_the_cheapest_where_none_is_shown_to_be_better(tmp_path):
    for name, accuracies in (("sgd", (0.90, 0.92, 0.91)), ("amp", (0.91, 0.915, 0.92))):
        for seed, accuracy in enumerate(accuracies):
            write_run(tmp_path / f"{name}-{seed}", replace(recipe(name), seed=seed), epochs=2, accuracy=accuracy)
    found = final_run(tmp_path)
    assert found.config.recipe == "sgd"
    assert found.why.startswith("Take sgd, as no recipe is shown to be better")


def test_what_the_study_left_out_is_said(tmp_path):
    for name in ("sgd", "amp"):
        config = recipe(name).override({"train_images": 500, "calibration": 50})
        for seed in range(3):
            write_run(tmp_path / f"{name}-{seed}", replace(config, seed=seed), epochs=2)
    found = final_run(tmp_path)
    assert (found.config.data.train_images, found.config.data.calibration) == (None, 50)
    assert found.why.endswith("the last epoch is kept; the study had 500 to train on; 50 stay apart for calibration.")


def test_a_study_that_does_not_say_what_to_take_is_refused(tmp_path):
    study = small_study(tmp_path / "study")
    shutil.rmtree(study / "amp")
    with pytest.raises(InputError, match=r"does not say which recipe to take \(sgd reaches .* train one by its name"):
        final_run(study)
    for folder in (study / "sgd").iterdir():
        (folder / "result.json").unlink()
    with pytest.raises(InputError, match="No run has finished"):
        final_run(study)


def test_the_command_takes_the_data_folder_of_the_study_and_other_settings(tmp_path, capsys):
    study = small_study(tmp_path / "study", seeds=5)
    file = study / "sgd" / "seed-0" / "environment.json"
    write_json(file, {**json.loads(file.read_text()), "data_dir": str(tmp_path)})
    options = cli.make_parser().parse_args(["train", "--like", str(study), "--epochs", "7", "--seed", "2"])
    config, folder = config_and_folder(options)
    assert (config.epochs, config.seed, config.data.validation) == (7, 2, 0)
    assert options.data_dir == tmp_path
    assert folder.name.startswith("cifar10-resnext29-amp-validation-0-")
    assert folder.name.endswith("-epochs-7-seed-2")
    assert "Take amp" in capsys.readouterr().err
