"""Two models on the same images: the statistics against other ways to compute them, and the page."""

import base64
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_classifier import CLASSES, classifier
from packed import CONFIG
from pages import Page
from PIL import Image

from flatnext.data import Split
from flatnext.deploy.compare import Compared, compare
from flatnext.deploy.comparison import Changes, Comparison
from flatnext.deploy.comparison_page import SHOWN, as_json, comparison_page, sentences
from flatnext.errors import InputError
from flatnext.models import add_metadata, read_weights
from flatnext.training import train


def changes(lost, gained, count=100, both=10):
    return Changes(count=count, old_correct=both + lost, new_correct=both + gained, lost=lost, gained=gained)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 1), (1, 9), (9, 1), (5, 5), (0, 12), (30, 17), (40, 7)])
def test_mcnemars_exact_test_is_the_sum_of_binomial_terms(lost, gained):
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n
    assert changes(lost, gained).p == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_the_interval_holds_the_difference_as_often_as_it_says():
    generator = np.random.default_rng(0)
    for count, lost, gained in ((50, 0.06, 0.02), (200, 0.05, 0.05), (1000, 0.01, 0.03)):
        drawn = generator.multinomial(count, [lost, gained, 1 - lost - gained], size=2000)
        intervals = [changes(a, b, count, both=0).interval for a, b, _ in drawn]
        held = np.mean([low <= gained - lost <= high for low, high in intervals])
        assert 0.935 < held < 0.985


def test_changes_are_counted():
    old, new = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
    made = Changes.of(old, new)
    assert made == Changes(count=5, old_correct=3, new_correct=2, lost=2, gained=1)
    assert (made.old_accuracy, made.new_accuracy) == (0.6, 0.4)
    assert made.difference == pytest.approx(-0.2)
    low, high = made.interval
    assert -1 <= low < -0.2 < high <= 1


def comparison(count=300, worse=2, seed=0, **names):
    """Return a comparison in which the new model has one class, `worse`, often wrong, and others by chance."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    old = np.where(generator.random(count) < 0.9, labels, (labels + 1) % 4)
    new = np.where(generator.random(count) < 0.9, labels, (labels + 2) % 4)
    new = np.where((labels == worse) & (generator.random(count) < 0.6), (labels + 1) % 4, new)
    values = {
        "old_name": "runs/old",
        "new_name": "runs/new",
        "images": f"{count} images of a test",
        "classes": ("ant", "bee", "cow", "<dog>"),
        "labels": labels,
        "old": old,
        "new": new,
        "old_confidence": generator.random(count),
        "new_confidence": generator.random(count),
    }
    return Comparison(**values | names)


def test_classes_that_got_worse_are_corrected_for_their_number():
    made = comparison()
    worse = made.worse_classes()
    assert worse[0].name == "cow"
    assert worse[0].p < 0.001
    by_name = {each.name: each for each in made.by_class()}
    smallest = min(by_name.values(), key=lambda each: each.changes.p)
    assert smallest.p == pytest.approx(min(1, 4 * smallest.changes.p))
    assert sum(each.changes.count for each in by_name.values()) == 300
    text = "\n".join(sentences(made))
    assert "Recognised less often: cow (" in text
    others = len(worse) - 1
    assert others == 0 or f"{others} other class" in text


def test_a_class_without_images_has_no_row():
    made = comparison(classes=("ant", "bee", "cow", "<dog>", "eel"))
    assert [each.name for each in made.by_class()] == ["ant", "bee", "cow", "<dog>"]


def test_sentences_say_when_it_may_be_chance():
    labels = np.zeros(100, int)
    old, new = np.array([0] * 99 + [1]), np.array([0] * 98 + [1, 0])
    values = {"old": old, "new": new, "labels": labels, "classes": ("a", "b")}
    text = sentences(comparison(100, **values, old_confidence=labels / 1.0, new_confidence=labels / 1.0))
    assert "0.00 points" in text[1]
    assert "may be chance" in text[1]
    assert "1 image went wrong and 1 image became right (McNemar's exact test: p = 1.000)" in text[1]


def test_images_that_changed_are_ranked_by_confidence():
    made = comparison()
    lost = made.lost()
    assert all(made.old[lost] == made.labels[lost])
    assert all(made.new[lost] != made.labels[lost])
    assert list(made.new_confidence[lost]) == sorted(made.new_confidence[lost], reverse=True)
    assert len(lost) == made.changes.lost
    assert len(made.gained()) == made.changes.gained
    assert set(made.otherwise_wrong()).isdisjoint(lost)


def test_json_is_json():
    content = json.loads(json.dumps(as_json(comparison())))
    assert content["difference"] == pytest.approx(content["new_accuracy"] - content["old_accuracy"])
    assert len(content["lost_images"]) == content["lost"]
    assert [row["name"] for row in content["classes"]] == ["ant", "bee", "cow", "<dog>"]


def page_of(count=300, grey=False, names=None):
    made = comparison(count)
    images = torch.randint(0, 256, (count, 1 if grey else 3, 8, 8), dtype=torch.uint8)
    split = Split(images, torch.from_numpy(made.labels), names)
    return made, comparison_page(Compared(comparison=made, split=split))


@pytest.mark.parametrize("grey", [False, True])
def test_the_page_has_the_figures_the_classes_and_the_images(grey):
    made, html = page_of(grey=grey)
    page = Page(html)
    assert page.open == []
    assert f"{100 * made.changes.new_accuracy:.2f} %" in html.replace("\u00a0", " ")
    assert page.table("class")[1][0] == "cow"
    shown = min(SHOWN, made.changes.lost) + min(SHOWN, made.changes.gained) + min(SHOWN, len(made.otherwise_wrong()))
    images = page.attributes("img")
    assert len(images) == shown
    with Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2]))) as image:
        assert image.size == (8, 8)
    assert "&lt;dog&gt;" in html
    assert "FlatNeXt comparison of two models" in html
    assert "<script" not in html
    assert "http" not in html.replace("http://www.w3.org", "")


def test_images_beyond_the_gallery_are_named():
    names = tuple(f"cow/{index}.png" for index in range(2000))
    made, html = page_of(2000, names=names)
    lost = made.lost()
    assert f"The other {len(lost) - SHOWN:,}, by name" in html
    assert names[lost[-1]] in html


def bright_npz(tmp_path, count=30):
    grey = np.linspace(0, 255, count).astype(np.uint8)
    images = np.broadcast_to(grey[:, None, None, None], (count, 4, 4, 3))
    labels = np.where(grey < 64, 0, np.where(grey < 192, 1, 2))
    np.savez(tmp_path / "some.npz", images=images, labels=labels)
    return tmp_path / "some.npz"


@pytest.fixture
def two(monkeypatch):
    """Let `old` and `new` be given classifiers."""

    def use(old, new):
        known = {"old": old, "new": new}
        monkeypatch.setattr("flatnext.deploy.compare.load", lambda path, **_: known[str(path)])
        # There are no weights that could say what they were trained on.
        monkeypatch.setattr("flatnext.evaluation.trained_model._require_unseen", lambda *_: None)

    return use


def test_models_are_asked_about_the_same_images_and_classes_are_matched_by_name(two, tmp_path):
    turned = classifier(classes=CLASSES[::-1], logits=lambda images: classifier().logits(images)[:, ::-1])
    two(classifier(), turned)
    made = compare("old", "new", test_set=bright_npz(tmp_path)).comparison
    assert np.array_equal(made.old, made.new)
    assert made.changes.old_correct == 30
    assert "another order" in made.notes[0]


def test_models_that_take_other_images_get_them_as_they_take_them(two, tmp_path):
    from flatnext.deploy.pixels import Preprocessing

    two(classifier(), classifier(preprocessing=Preprocessing(image_size=8, channels=1)))
    compared = compare("old", "new", test_set=bright_npz(tmp_path))
    assert compared.split.images.shape == (30, 1, 8, 8)
    assert compared.comparison.changes.difference == 0
    assert "different sizes or forms" in compared.comparison.notes[0]


def test_models_of_other_classes_are_refused(two, tmp_path):
    two(classifier(), classifier(classes=("dark", "middle", "light")))
    with pytest.raises(InputError, match="lacks bright and adds light"):
        compare("old", "new", test_set=bright_npz(tmp_path))
    two(classifier(classes=tuple(f"digit {n}" for n in range(10))), classifier())
    with pytest.raises(InputError, match="lacks digit 0, digit 1, digit 2 and 7 more and adds dark, middle, bright,"):
        compare("old", "new", test_set=bright_npz(tmp_path))


def test_a_dataset_and_a_test_set_are_one_too_many(tmp_path):
    with pytest.raises(InputError, match="give one of them"):
        compare("old", "new", test_set=tmp_path, dataset="digits")


def test_the_digits_by_name(run):
    made = compare(run, run, dataset="digits").comparison
    assert made.images == f"{len(made.labels)} test images of digits"
    assert made.changes.lost == made.changes.gained == 0
    again = compare(run, run).comparison
    assert np.array_equal(made.labels, again.labels)
    with pytest.raises(InputError, match="digit"):
        compare(run, run, dataset="digit")


def test_images_of_each_kind_and_their_ranks():
    made = Comparison(
        **{"old_name": "o", "new_name": "n", "images": "", "classes": ("a", "b", "c"), "labels": np.zeros(6, int)},
        **{"old": np.array([0, 1, 1, 2, 1, 0]), "new": np.array([1, 1, 2, 0, 0, 2])},
        old_confidence=np.array([0.5, 0.5, 0.5, 0.6, 0.9, 0.7]),
        new_confidence=np.array([0.5, 0.9, 0.6, 0.9, 0.6, 0.8]),
    )
    assert [each.tolist() for each in (made.lost(), made.gained(), made.otherwise_wrong())] == [[5, 0], [4, 3], [2]]


def test_a_model_of_another_size_is_told_of_other_test_images_in_its_own_form(run, tmp_path):
    train(replace(CONFIG, data=replace(CONFIG.data, image_size=12)), tmp_path / "large")
    words = "images are not those that"
    assert not [note for note in compare(run, tmp_path / "large").comparison.notes if words in note]
    weights = tmp_path / "large" / "last.safetensors"
    before = json.loads(read_weights(weights)[1]["data"])
    before["test"]["sha256"] = "0" * 64
    add_metadata(weights, {"data": json.dumps(before)})
    (note,) = [note for note in compare(run, tmp_path / "large").comparison.notes if words in note]
    assert str(tmp_path / "large") in note
