"""Measurements of a trained model: on which images they are made, and what is kept of them in a file."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from places import FIXTURES

from flatnext import data, models
from flatnext.config import Model
from flatnext.deploy.calibrate import calibrate
from flatnext.errors import InputError
from flatnext.evaluation import load_trained_model
from flatnext.evaluation.corruptions import NAMES as CORRUPTIONS
from flatnext.evidence import measuring
from flatnext.evidence.gather import gather, run_folders
from flatnext.evidence.measuring import KINDS
from flatnext.evidence.plan import EvidencePlan, in_order
from flatnext.files import sha256
from flatnext.progress import Display, silent
from flatnext.runs import lock as waiting
from flatnext.runs.evidence import MEASUREMENTS
from flatnext.schema import dump

QUICK = EvidencePlan(images=40, linf=(8.0,), l2=(128.0,))
STUDY = FIXTURES / "runs-of-0.1.0" / "study"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of finished runs, without evidence."""
    folder = tmp_path_factory.mktemp("study") / "study"
    shutil.copytree(STUDY, folder, ignore=shutil.ignore_patterns("evidence.json", "seed-1"))
    return folder


@pytest.fixture(scope="module")
def run(study):
    return study / "quick" / "seed-0"


@pytest.fixture(scope="module")
def model(run):
    return load_trained_model(run)


def read(file):
    return json.loads(file.read_text())


def close(measured, stored):
    """Compare two results as JSON: numbers to rounding, all else exactly, and nothing of what took how long."""
    if isinstance(stored, dict):
        added = {name for name, value in measured.items() if value is None}  # fields of later versions
        there = stored.keys() - {"restarts"}  # a setting of attacks that always was 1
        assert measured.keys() - added <= there <= measured.keys()
        for key in there - {"seconds"}:
            close(measured[key], stored[key])
    elif isinstance(stored, list):
        assert len(measured) == len(stored)
        for pair in zip(measured, stored, strict=True):
            close(*pair)
    else:
        assert measured == (pytest.approx(stored, rel=1e-3, abs=1e-6) if isinstance(stored, float) else stored)


@pytest.mark.parametrize("folder", ["quick/seed-1", "quick-amp/seed-1"])
def test_measurements_are_those_of_version_0_1_0(folder, tmp_path):
    plan = replace(QUICK, autoattack="none")
    content = read(gather(STUDY / folder, plan=plan, output=tmp_path / "e.json"))
    stored = read(STUDY / folder / "evidence.json")
    for file in (content, stored):  # the stored file has been cut down to its first mistakes
        del file["parts"]["errors"]["result"]["mistakes"][2:]
    assert list(content["parts"]) == list(MEASUREMENTS)
    for name in MEASUREMENTS:
        assert content["parts"][name]["settings"] == stored["parts"][name]["settings"]
        close(content["parts"][name]["result"], stored["parts"][name]["result"])
    assert {key: content[key] for key in ("checkpoint", "sha256", "classes")} == {
        key: stored[key] for key in ("checkpoint", "sha256", "classes")
    }


def test_what_is_measured_on_how_many_images(run):
    lines = []

    class Recorder(Display):
        def say(self, text):
            lines.append(text)

    file = gather(run, plan=QUICK, command="flatnext evidence", display=Recorder())
    assert file == run / "evidence.json"
    content = read(file)
    for measurement in content["parts"].values():
        assert measurement["made"]["command"] == "flatnext evidence"
        assert measurement["made"]["seconds"] >= 0
        assert measurement["settings"]["images"] == 40
    results = {name: measurement["result"] for name, measurement in content["parts"].items()}
    assert results["calibration"]["count"] == results["errors"]["count"] == 40
    assert results["calibration"]["accuracy"] == results["errors"]["accuracy"]
    assert results["calibration"]["scaled"]["validation_count"] == 40
    flatness = results["flatness"]
    assert flatness["split"] == "train"
    assert [flatness[kind]["count"] for kind in ("random", "surface", "trace")] == [10, 2, 1]
    assert [sharpness["radius"] for sharpness in flatness["amp"]] == list(measuring.AMP_RADII)
    generated = results["corruptions"]["generated"]
    assert list(generated["accuracy"]) == list(CORRUPTIONS)
    assert generated["count"] == 20
    attacks = results["attacks"]["attacks"]
    assert [(a["attack"], a["norm"]) for a in attacks] == [
        *(("fgsm", "linf"), ("pgd", "linf")),
        *(("fgsm", "l2"), ("pgd", "l2")),
    ]
    assert all(a["robust_accuracy"] <= a["clean_accuracy"] for a in attacks)
    assert any(line.startswith(f"{run}: flatness: ") for line in lines)


def test_results_are_kept_until_weights_or_settings_change(study, run, tmp_path):
    folder, output = study / "quick-amp" / "seed-0", tmp_path / "e.json"
    gather(folder, ["calibration"], QUICK, output=output)
    before = output.read_text()
    gather(folder, ["calibration"], QUICK, output=output)
    assert output.read_text() == before
    gather(folder, ["errors"], QUICK, output=output)
    assert list(read(output)["parts"]) == ["calibration", "errors"]
    gather(folder, ["errors"], EvidencePlan(images=20), output=output)
    assert read(output)["parts"]["errors"]["result"]["count"] == 20
    assert read(output)["parts"]["calibration"]["result"]["count"] == 40


def test_evidence_of_other_weights_is_kept(study, run, tmp_path):
    output = tmp_path / "e.json"
    gather(study / "quick-amp" / "seed-0", ["calibration"], QUICK, output=output)
    before = output.read_text()
    with pytest.raises(InputError, match=r"e.json holds the evidence of other weights: choose another --output"):
        gather(run, ["errors"], QUICK, output=output)
    assert output.read_text() == before
    gather(run, ["errors"], QUICK, output=output, overwrite=True)
    assert list(read(output)["parts"]) == ["errors"]


def test_the_runs_own_evidence_is_out_of_date_when_its_weights_have_changed(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "evidence.json").write_text(json.dumps({"sha256": "of before", "parts": {"calibration": {}}}))
    gather(folder, ["errors"], QUICK)
    assert list(read(folder / "evidence.json")["parts"]) == ["errors"]


def test_two_processes_write_into_one_file_in_turn(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("evidence.json"))
    monkeypatch.setattr(waiting, "SECONDS", 0.1)
    with waiting.lock(folder), pytest.raises(waiting.HeldError):
        gather(folder, ["errors"], QUICK)
    assert not (folder / "evidence.json").exists()


def test_overwrite_measures_again(run, tmp_path):
    output = tmp_path / "e.json"
    gather(run, ["errors"], QUICK, output=output)
    content = read(output)
    content["parts"]["errors"]["result"]["count"] = -1
    output.write_text(json.dumps(content))
    gather(run, ["errors"], QUICK, output=output)
    assert read(output)["parts"]["errors"]["result"]["count"] == -1
    gather(run, ["errors"], QUICK, output=output, overwrite=True)
    assert read(output)["parts"]["errors"]["result"]["count"] == 40


def test_the_same_images_for_every_model(study, model):
    other = load_trained_model(study / "quick-amp" / "seed-0")
    for name in ("train", "validation", "test"):
        ours, theirs = (measuring.sample(each.split(name), 30, 0) for each in (model, other))
        assert torch.equal(ours.images, theirs.images)


def test_a_sample_has_its_share_of_each_class_and_all_where_there_are_no_more(model):
    test = model.split("test")
    counts = torch.bincount(measuring.sample(test, 100, 0).labels, minlength=10)
    assert counts.sum() == 100
    assert counts.max() - counts.min() <= 2
    assert len(measuring.sample(test, 10**6, 0)) == len(test)
    first, second = (measuring.sample_indices(test, 100, seed) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_few_images_are_of_any_class():
    split = data.Split(torch.zeros(500, 3, 8, 8, dtype=torch.uint8), torch.arange(500) // 5)
    assert int(measuring.sample(split, 31, 0).labels.max()) > 60
    indices = measuring.sample_indices(split, 31, 0).tolist()
    assert indices == sorted(indices)


def test_mistakes_are_numbered_as_in_the_whole_test_set(model):
    errors = measuring.measure_errors(model, QUICK, silent)
    test = model.split("test")
    predicted = model.predictor(test.images).argmax(1)
    for mistake in errors.mistakes:
        assert (int(test.labels[mistake.index]), int(predicted[mistake.index])) == (mistake.label, mistake.predicted)


def test_weights_that_say_nothing_of_their_training_are_measured_on_test_images(tmp_path):
    shape = {"blocks": (1, 1), "cardinality": 2, "stem": 8}
    torch.manual_seed(0)
    torch.save(models.build(Model(**shape), 10).state_dict(), tmp_path / "w.pt")
    settings = {"dataset": "digits", **shape, "precision": "fp32", "validation": 0}
    plain = load_trained_model(tmp_path / "w.pt", overrides=settings)
    assert measuring.measure_flatness(plain, QUICK, silent).split == "test"
    assert measuring.measure_calibration(plain, QUICK, silent).scaled is None
    with pytest.raises(InputError, match="does not say which images"):
        plain.split("train")


def test_a_diverged_model_has_no_flatness(model):
    bad = copy.deepcopy(model.predictor.model)
    with torch.no_grad():
        next(bad.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="the loss on train images is not finite: the run diverged"):
        measuring.measure_flatness(replace(model, predictor=replace(model.predictor, model=bad)), QUICK, silent)


def save_images(file, split):
    np.savez(file, images=split.images.permute(0, 2, 3, 1).numpy(), labels=split.labels.numpy())


def test_other_test_sets(model, tmp_path):
    test = model.split("test")
    (tmp_path / "b").mkdir()
    for name in ("again.npz", "b/again.npz"):
        save_images(tmp_path / name, test)
    sets = measuring.measure_test_sets(model, QUICK, silent, paths=(tmp_path / "again.npz",)).sets
    (scores,) = sets.values()
    assert scores.count == len(test)
    assert scores.accuracy == (model.predictor(test.images).argmax(1) == test.labels).double().mean()
    content = read(
        gather(model.weights.parent, ["errors"], QUICK, test_sets=[tmp_path / "again.npz"], output=tmp_path / "e.json")
    )
    assert content["parts"]["test_sets"]["result"] == {"sets": {name: dump(scores) for name in sets}}
    save_images(tmp_path / "again.npz", test.select(torch.arange(50)))  # other images at the same place
    changed = read(
        gather(model.weights.parent, ["errors"], QUICK, test_sets=[tmp_path / "again.npz"], output=tmp_path / "e.json")
    )
    assert changed["parts"]["test_sets"]["result"]["sets"]["again"]["count"] == 50
    with pytest.raises(InputError, match="told apart"):
        gather(model.weights.parent, ["errors"], QUICK, test_sets=[tmp_path / "again.npz", tmp_path / "b/again.npz"])


def enlarged(split):
    return data.Split(split.images.repeat(1, 1, 4, 4), split.labels)


def test_published_corruptions_are_those_of_the_test_images(model, tmp_path):
    size = len(model.split("test"))
    for name in CORRUPTIONS:
        np.save(tmp_path / f"{name}.npy", np.zeros((5 * size, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", model.split("test").labels.repeat(5).numpy())
    with pytest.raises(InputError, match="not made from the test images of digits"):  # they have 8 pixels a side
        measuring.published_images(model, tmp_path)
    large = replace(model.dataset, test=enlarged(model.dataset.test), train=enlarged(model.dataset.train))
    model = replace(model, dataset=large)
    scores = measuring.measure_corruptions(model, EvidencePlan(images=4), silent, published=tmp_path)
    assert scores.published.count == scores.generated.count == 2
    np.save(tmp_path / "labels.npy", np.zeros(5 * size, np.int64))
    with pytest.raises(InputError, match="not made from the test images"):
        measuring.published_images(model, tmp_path)


@pytest.mark.parametrize(("classes", "attacks"), [(2, {"fgsm", "pgd"}), (4, {"fgsm", "pgd", "autoattack"})])
def test_autoattack_needs_four_classes(model, classes, attacks, monkeypatch):
    called = set()
    images = model.split("test").select(torch.arange(2))
    result = measuring.attacks.robustness(model.predictor, images.images, images.labels)

    def robustness(*_, attacks, progress, **options):
        called.add(attacks)
        return result

    monkeypatch.setattr(measuring.attacks, "robustness", robustness)
    few = replace(model, predictor=replace(model.predictor, classes=("a",) * classes))
    measuring.measure_attacks(few, replace(QUICK, autoattack="standard"), silent)
    assert called == attacks


def test_a_run_that_has_not_finished_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(InputError, match="has not finished"):
        gather(tmp_path / "run", ["errors"], QUICK)


def test_a_checkpoint_of_a_run_that_has_not_finished_is_refused_as_well(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "result.json").unlink()
    with pytest.raises(InputError, match="run has not finished"):
        gather(folder / "last.safetensors", ["errors"], QUICK)


def test_what_was_measured_of_weights_that_have_changed_is_not_kept(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run, tmp_path / "run")
    gather(folder, ["errors"], QUICK)
    real = KINDS["calibration"].measure

    def measure(*inputs):
        calibrate(folder, split="test")
        return real(*inputs)

    monkeypatch.setitem(KINDS, "calibration", replace(KINDS["calibration"], measure=measure))
    with pytest.raises(InputError, match="has changed while it was measured"):
        gather(folder, ["calibration"], QUICK, overwrite=True)
    content = read(folder / "evidence.json")
    assert "errors" in content["parts"]
    assert content["sha256"] == sha256(folder / "last.safetensors")


def test_double_precision_is_another_setting(run, tmp_path):
    output = tmp_path / "e.json"
    for precision in ("bf16", "fp32", "fp64"):
        gather(run, ["attacks"], QUICK, output=output, overrides={"precision": precision})
        settings = read(output)["parts"]["attacks"]["settings"]
        assert settings.get("precision") == ("fp64" if precision == "fp64" else None)


def test_another_division_of_the_data_is_measured_anew(run, tmp_path):
    output = tmp_path / "e.json"
    gather(run, ["calibration"], QUICK, output=output)
    gather(run, ["calibration"], QUICK, output=output, overrides={"validation": 0})
    assert read(output)["parts"]["calibration"]["result"]["scaled"] is None


@pytest.mark.parametrize("overrides", [{"split_seed": 1}, {"validation": 30}])
def test_images_of_the_training_are_not_taken_for_held_out_ones(run, tmp_path, overrides):
    with pytest.raises(InputError, match="other held-out images may be among those it was trained on: leave it out"):
        gather(run, ["calibration"], QUICK, output=tmp_path / "e.json", overrides=overrides)


def test_other_pixels_are_measured_anew(run, tmp_path):
    output = tmp_path / "e.json"
    for overrides in ({}, {"resize": "pad"}, {"resize": "stretch"}):
        gather(run, ["errors"], QUICK, output=output, overrides=overrides)
        settings = read(output)["parts"]["errors"]["settings"]
        assert {name: settings[name] for name in ("resize",) if name in settings} == overrides


@pytest.mark.parametrize(
    "settings",
    [{"images": 0}, {"seed": -1}, {"linf": (0.0,)}, {"linf": (1.0, 1.0)}, {"l2": (float("nan"),)}, {"autoattack": "x"}],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        EvidencePlan(**settings)


def test_measurements_by_name():
    assert in_order(["all"]) == MEASUREMENTS
    assert in_order(["attacks", "calibration"]) == ("calibration", "attacks")
    with pytest.raises(InputError, match="measurement is 'flat'"):
        in_order(["flat"])


def test_runs_of_a_folder(study, run, tmp_path):
    assert [folder.parent.name for folder in run_folders(study)] == ["quick", "quick-amp"]
    assert run_folders(run) == [run]
    assert run_folders(tmp_path) == [tmp_path]  # what is wrong with it is said when it is read


def test_a_file_that_is_something_else_is_not_overwritten(run, tmp_path):
    (tmp_path / "e.json").write_text("[1]")
    with pytest.raises(InputError, match="damaged, or holds no evidence"):
        gather(run, ["errors"], QUICK, output=tmp_path / "e.json")
    assert (tmp_path / "e.json").read_text() == "[1]"


def test_attacks_are_measured_in_fp32_at_the_documented_budgets(model, monkeypatch):
    images, seen = model.split("test").select(torch.arange(2)), []
    robustness = measuring.attacks.robustness(model.predictor, images.images, images.labels)
    checks = measuring.attacks.sanity_checks(model.predictor, images.images, images.labels, slack=0.9)

    def note(predictor, *_, attacks="checks", norm, budget, **options):
        seen.append((predictor.precision, attacks, norm, budget))
        return checks if attacks == "checks" else robustness

    for name in ("robustness", "sanity_checks"):
        monkeypatch.setattr(measuring.attacks, name, note)
    rounded = replace(model, predictor=replace(model.predictor, precision="bf16"))
    plan = EvidencePlan(images=40, linf=(2.0, 1.0, 8.0), l2=(), autoattack="standard")
    measuring.measure_attacks(rounded, plan, silent)
    wanted = [(attack, budget) for budget in (2.0, 1.0, 8.0) for attack in ("fgsm", "pgd")]
    wanted += [("autoattack", 1.0), ("checks", 1.0)]  # the second one; the smallest one
    assert seen == [("fp32", attack, "linf", budget) for attack, budget in wanted]
