"""Gathering evidence: what is measured on which images, what is kept, and what the command does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny import tiny

from flatnext import cli, data
from flatnext.errors import InputError
from flatnext.evaluation.subject import load_subject
from flatnext.evidence import parts
from flatnext.evidence.gather import gather, run_folders
from flatnext.evidence.plan import PARTS, Plan, chosen
from flatnext.evidence.progress import Display, Weighted, silent
from flatnext.training import train

QUICK = Plan(images=40, linf=(8.0,), l2=(128.0,))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A study of two finished runs."""
    root = tmp_path_factory.mktemp("study")
    for name in ("quick", "quick-amp"):
        train(tiny(name), root / name / "seed-0")
    return root


@pytest.fixture(scope="module")
def subject(trained):
    return load_subject(trained / "quick" / "seed-0")


def read(file):
    return json.loads(file.read_text())


def test_all_parts_of_a_run(trained):
    steps = []

    class Watch(Display):
        def say(self, text):
            steps.append(text)

    folder = trained / "quick" / "seed-0"
    file = gather(folder, plan=QUICK, command="flatnext evaluate", display=Watch())
    assert file == folder / "evidence.json"
    content = read(file)
    assert list(content["parts"]) == list(PARTS)
    assert content["checkpoint"] == "last"
    assert len(content["classes"]) == 10
    for part in content["parts"].values():
        assert part["made"]["command"] == "flatnext evaluate"
        assert part["made"]["seconds"] >= 0
        assert part["settings"]["images"] == 40
    results = {name: part["result"] for name, part in content["parts"].items()}
    assert results["calibration"]["count"] == results["errors"]["count"] == 40
    assert results["calibration"]["accuracy"] == results["errors"]["accuracy"]
    assert results["calibration"]["scaled"]["validation_count"] == 40
    flat = results["flatness"]
    assert flat["split"] == "train"
    assert [flat[k]["count"] for k in ("random", "surface", "trace")] == [10, 2, 1]
    assert [one["radius"] for one in flat["amp"]] == list(parts.AMP_RADII)
    corruption = results["corruptions"]["generated"]
    assert len(corruption["accuracy"]) == 15
    assert corruption["count"] == 20
    attacks = results["attacks"]["attacks"]
    assert [(a["attack"], a["norm"]) for a in attacks] == [
        *(("fgsm", "linf"), ("pgd", "linf"), ("fgsm", "l2"), ("pgd", "l2")),
        ("autoattack-quick", "linf"),
    ]
    assert all(a["robust_accuracy"] <= a["clean_accuracy"] for a in attacks)
    assert [text for text in steps if text.startswith(f"{folder}: flatness: ")]


def test_what_is_there_is_kept_until_weights_or_settings_change(trained, tmp_path):
    folder = trained / "quick-amp" / "seed-0"
    output = tmp_path / "e.json"
    gather(folder, ["calibration"], QUICK, output=output)
    before = output.read_text()
    gather(folder, ["calibration"], QUICK, output=output)
    assert output.read_text() == before
    gather(folder, ["errors"], QUICK, output=output)
    assert list(read(output)["parts"]) == ["calibration", "errors"]
    gather(folder, ["errors"], Plan(images=20), output=output)
    assert read(output)["parts"]["errors"]["result"]["count"] == 20
    assert read(output)["parts"]["calibration"]["result"]["count"] == 40
    gather(trained / "quick" / "seed-0", ["errors"], QUICK, output=output)
    assert list(read(output)["parts"]) == ["errors"]  # what was known of other weights is gone


def test_overwrite_gathers_anew(trained, tmp_path, monkeypatch):
    output = tmp_path / "e.json"
    folder = trained / "quick" / "seed-0"
    gather(folder, ["errors"], QUICK, output=output)
    content = read(output)
    content["parts"]["errors"]["result"]["count"] = -1
    output.write_text(json.dumps(content))
    gather(folder, ["errors"], QUICK, output=output)
    assert read(output)["parts"]["errors"]["result"]["count"] == -1
    gather(folder, ["errors"], QUICK, output=output, overwrite=True)
    assert read(output)["parts"]["errors"]["result"]["count"] == 40


def test_the_same_images_for_every_model(trained, subject):
    other = load_subject(trained / "quick-amp" / "seed-0")
    for name in ("train", "validation", "test"):
        ours, theirs = (parts.sample(each.split(name), 30, 0) for each in (subject, other))
        assert torch.equal(ours.images, theirs.images)


def test_a_sample_has_its_share_of_each_class_and_all_where_there_are_no_more(subject):
    test = subject.split("test")
    counts = torch.bincount(parts.sample(test, 100, 0).labels, minlength=10)
    assert counts.sum() == 100
    assert counts.max() - counts.min() <= 2
    assert len(parts.sample(test, 10**6, 0)) == len(test)
    assert not torch.equal(parts.drawn(test, 100, 0), parts.drawn(test, 100, 1))


def test_mistakes_are_numbered_as_in_the_whole_test_set(subject):
    found = parts.errors(subject, QUICK, silent)
    whole = subject.split("test")
    logits = subject.predict(whole)
    for mistake in found["mistakes"]:
        index = mistake["index"]
        assert (int(whole.labels[index]), int(logits[index].argmax())) == (mistake["label"], mistake["predicted"])


def test_weights_that_say_nothing_of_their_training_are_measured_on_test_images(tmp_path):
    from flatnext import models

    config = tiny()
    torch.manual_seed(0)
    torch.save(models.build(config.model, 10).state_dict(), tmp_path / "w.pt")
    settings = {"dataset": "digits", "blocks": (1, 1), "cardinality": 2, "stem": 8, "precision": "fp32"}
    plain = load_subject(tmp_path / "w.pt", overrides={**settings, "validation": 0})
    assert parts.flat(plain, QUICK, silent)["split"] == "test"
    assert parts.calibration(plain, QUICK, silent)["scaled"] is None
    with pytest.raises(InputError, match="does not say which images"):
        plain.split("train")


def test_other_test_sets(subject, tmp_path):
    import numpy as np

    test = subject.split("test")
    np.savez(tmp_path / "again.npz", images=test.images.permute(0, 2, 3, 1).numpy(), labels=test.labels.numpy())
    found = parts.other_test_sets(subject, QUICK, silent, paths=(tmp_path / "again.npz",))["sets"]
    (scores,) = found.values()
    assert scores["count"] == len(test)
    (tmp_path / "b").mkdir()
    np.savez(tmp_path / "b" / "again.npz", images=test.images.permute(0, 2, 3, 1).numpy(), labels=test.labels.numpy())
    with pytest.raises(InputError, match="told apart"):
        gather(subject.weights.parent, ["errors"], QUICK, test_sets=[tmp_path / "again.npz", tmp_path / "b/again.npz"])
    assert scores["accuracy"] == (subject.predict(test).argmax(1) == test.labels).double().mean()


def test_published_corruptions_are_those_of_the_test_images(subject, tmp_path):
    import numpy as np

    from flatnext.evaluation.corruptions import NAMES

    size = len(subject.split("test"))
    for name in NAMES:
        np.save(tmp_path / f"{name}.npy", np.zeros((5 * size, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", subject.split("test").labels.repeat(5).numpy())
    with pytest.raises(InputError, match="not made from the test images of digits"):  # they have 8 pixels a side
        parts.published_images(subject, tmp_path)
    whole = subject.dataset.test
    large = replace(
        subject.dataset, test=data.Split(whole.images.repeat(1, 1, 4, 4), whole.labels), train=replace_size(subject)
    )
    subject = replace(subject, dataset=large)
    found = parts.corrupted(subject, Plan(images=4), silent, published=tmp_path)
    assert found["published"]["count"] == found["generated"]["count"] == 2
    np.save(tmp_path / "labels.npy", np.zeros(5 * size, np.int64))
    with pytest.raises(InputError, match="not made from the test images"):
        parts.published_images(subject, tmp_path)


def replace_size(subject):
    train = subject.dataset.train
    return data.Split(train.images.repeat(1, 1, 4, 4), train.labels)


def test_few_images_are_of_any_class():
    split = data.Split(torch.zeros(500, 3, 8, 8, dtype=torch.uint8), torch.arange(500) // 5)
    assert int(parts.sample(split, 31, 0).labels.max()) > 60
    assert parts.drawn(split, 31, 0).tolist() == sorted(parts.drawn(split, 31, 0).tolist())


def test_fewer_than_four_classes_have_no_autoattack(subject):
    test = subject.dataset.test
    two = replace(
        subject.dataset, classes=("a", "b"), test=data.Split(test.images, test.labels % 2), train=two_classes(subject)
    )
    found = parts.attacked(replace(subject, dataset=two), QUICK, silent)
    assert {attack["attack"] for attack in found["attacks"]} == {"fgsm", "pgd"}


def two_classes(subject):
    train = subject.dataset.train
    return data.Split(train.images, train.labels % 2)


def test_a_run_that_has_not_finished_is_refused(trained, tmp_path):
    shutil.copytree(trained / "quick" / "seed-0", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(InputError, match="has not finished"):
        gather(tmp_path / "run", ["errors"], QUICK)


def test_another_division_of_the_data_is_measured_anew(trained, tmp_path):
    folder, output = trained / "quick" / "seed-0", tmp_path / "e.json"
    gather(folder, ["calibration"], QUICK, output=output)
    gather(folder, ["calibration"], QUICK, output=output, overrides={"validation": 0})
    assert read(output)["parts"]["calibration"]["result"]["scaled"] is None


@pytest.mark.parametrize(
    "settings",
    [{"images": 0}, {"seed": -1}, {"linf": (0.0,)}, {"linf": (1.0, 1.0)}, {"l2": (float("nan"),)}, {"autoattack": "x"}],
)
def test_settings_that_cannot_be(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Plan(**settings)


def test_parts_by_name():
    assert chosen(["all"]) == PARTS
    assert chosen(["attacks", "calibration"]) == ("calibration", "attacks")
    with pytest.raises(InputError, match="part is 'flat'"):
        chosen(["flat"])


def test_runs_of_a_folder(trained, tmp_path):
    assert [f.parent.name for f in run_folders(trained)] == ["quick", "quick-amp"]
    assert run_folders(trained / "quick" / "seed-0") == [trained / "quick" / "seed-0"]
    with pytest.raises(InputError, match="no finished run"):
        run_folders(tmp_path)


def test_a_file_that_is_something_else_is_not_overwritten(trained, tmp_path):
    (tmp_path / "e.json").write_text("[1]")
    with pytest.raises(InputError, match="damaged, or holds no evidence"):
        gather(trained / "quick" / "seed-0", ["errors"], QUICK, output=tmp_path / "e.json")
    assert (tmp_path / "e.json").read_text() == "[1]"


def test_weighted_progress_ends_at_the_whole():
    seen = []
    told = Weighted(lambda done, total: seen.append(done / total), a=1, b=3)
    told("a")(1, 2)
    told("a")(2, 2)
    told("b")(5, 5)
    assert seen == [0.125, 0.25, 1.0]


def test_the_subject_is_what_the_run_ended_with(trained, subject):
    result = read(trained / "quick" / "seed-0" / "result.json")
    test = subject.split("test")
    logits = subject.predict(test)
    assert (logits.argmax(1) == test.labels).double().mean() == result["last"]["test"]["accuracy"]
    assert torch.equal(subject.answer(test.images), logits)
    kept = data.partition(subject.dataset, subject.config.data)
    assert torch.equal(subject.split("validation").images, kept.validation.images)


class TestCommand:
    @pytest.fixture
    def run(self, capsys):
        def call(*arguments):
            try:
                status = cli.main([str(argument) for argument in arguments])
            except SystemExit as error:
                status = error.code
            return status, *capsys.readouterr()

        return call

    def test_a_study_gets_its_evidence_and_its_report(self, run, trained):
        status, out, err = run("evaluate", trained, "--parts", "calibration", "--images", 50)
        assert status == 0, err
        assert out.splitlines()[-1] == str(trained / "report.md")
        for name in ("quick", "quick-amp"):
            assert read(trained / name / "seed-0" / "evidence.json")["parts"]["calibration"]["result"]["count"] == 50
        assert "gathered before" in run("evaluate", trained, "--parts", "calibration", "--images", 50)[2]

    def test_one_weights_file(self, run, trained, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        status, out, err = run("evaluate", trained / "quick" / "seed-0" / "best.safetensors", "--parts", "errors")
        assert status == 0, err
        assert out.strip() == "seed-0-best-evidence.json"
        assert (tmp_path / "seed-0-best-evidence.json").is_file()

    def test_the_best_epoch_has_a_file_of_its_own(self, run, trained):
        folder = trained / "quick" / "seed-0"
        status, _, err = run("evaluate", folder, "--checkpoint", "best", "--parts", "errors", "--images", 10)
        assert status == 0, err
        assert read(folder / "evidence-best.json")["checkpoint"] == "best"

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--images", 10], "--images is for the evidence"),
            (["--cifar10-c", "x"], "--cifar10-c is for the evidence"),
            (["--parts", "all", "--split", "test"], "leave --split and --json out"),
            (["--parts", "every"], "part is 'every'"),
            (["--parts", "errors", "--cifar10-c", "x"], "for the part corruptions"),
            (["--parts", "corruptions", "--cifar10-c", "nowhere"], "nowhere"),
            (["--parts", "errors", "--test-set", "nowhere"], "nowhere"),
            (["--test-set", "a", "b"], "one at a time"),
            (["--parts", "attacks", "--linf", "--l2"], "both empty"),
            (["--test-set", "nowhere", "--split", "train"], "give one of them"),
        ],
    )
    def test_bad_input_is_one_line(self, run, trained, flags, message):
        status, _, err = run("evaluate", trained / "quick" / "seed-0", *flags)
        assert status == 2
        assert message in err
        assert len(err.strip().splitlines()[-1:]) == 1
        assert "Traceback" not in err

    def test_one_output_for_one_model(self, run, trained):
        status, _, err = run("evaluate", trained, "--parts", "errors", "--output", "x.json")
        assert status == 2
        assert "--output is for one model" in err
