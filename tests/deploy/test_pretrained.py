"""Weights that ship: packing a run, its card and index, loading by name, and that what ships is what the index says."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import socket
from dataclasses import astuple

import numpy as np
import pytest
import safetensors.torch
import torch
from places import REPOSITORY
from scipy.stats import binom, norm
from test_calibration import oracle
from tiny import tiny

import flatnext
from flatnext import cli, data, models
from flatnext.deploy import card as card_module
from flatnext.deploy import measure as measure_module
from flatnext.deploy import pack as pack_module
from flatnext.deploy.pack import format_packed, pack
from flatnext.errors import InputError
from flatnext.evaluation import calibration, load_predictor, score
from flatnext.models import catalog
from flatnext.runs.scores import Scores
from flatnext.training import train

NAME = "resnext11-digits-tiny"
CONFIG = tiny(epochs=8, ema=0.5, learning_rate=0.05)
SHIPPED = [entry for entries in models.shipped().values() for entry in entries]
CIFAR10 = [entry for entry in SHIPPED if entry.short.endswith("-cifar10")]
TOLERANCE = 3  # images of the first 1,000 that another machine's rounding may classify otherwise


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(CONFIG, folder, command="flatnext train | tee log")
    return folder


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    return pack(run, NAME, tmp_path_factory.mktemp("weights") / "new")


@pytest.fixture
def folder(packed, tmp_path, monkeypatch):
    """Return a copy of the folder with the packed weights, which stands for the package's own."""
    folder = tmp_path / "weights"
    shutil.copytree(packed.files[0].parent, folder)
    monkeypatch.setattr(catalog, "WEIGHTS", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def call(capsys, *arguments):
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


def test_the_model_has_the_runs_weights_rounded_to_half_precision(run, folder, monkeypatch):
    def refuse(*_):
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    state = torch.get_rng_state()
    model = flatnext.from_pretrained(NAME)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(model) is type(models.build(CONFIG.model, 10))
    assert not model.training
    own = safetensors.torch.load_file(run / "last.safetensors")
    assert own.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        wanted = own[name].numpy()
        if wanted.ndim >= 2:
            wanted = wanted.astype(np.float16).astype(np.float32)
        assert value.dtype == own[name].dtype
        np.testing.assert_array_equal(value.numpy(), wanted)
    stored = safetensors.torch.load_file(folder / f"{NAME}.safetensors")
    assert {value.dtype for value in stored.values() if value.ndim >= 2} == {torch.float16}


def test_info_is_the_runs(run, folder):
    info, digits = flatnext.pretrained_info("resnext11-digits"), flatnext.load("digits")
    assert info == flatnext.pretrained_info(NAME)
    assert info.config == CONFIG
    assert (info.classes, info.normalization, info.image_size) == (digits.classes, digits.normalization, 8)
    assert info.path == folder / f"{NAME}.safetensors"
    with safetensors.safe_open(info.path, "pt") as file:
        assert "state" not in file.metadata()
    images = digits.test.images[:4]
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in astuple(info.normalization))
    wanted = (images.numpy() / 255 - mean) / std
    np.testing.assert_allclose(info.normalize(images).numpy(), wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"give torch\.uint8"):
        info.normalize(images.float())


def example(card):
    """Return the program that the card shows."""
    return re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]


def figures(card):
    """Return the metrics of the card's model index by type."""
    return {kind: float(value) for kind, value in re.findall(r"- type: (\w+)\n +name: .*\n +value: (\S+)", card)}


def test_the_cards_figures_are_those_of_an_evaluation(packed, folder):
    card = (folder / f"{NAME}.md").read_text()
    found, scores = figures(card), flatnext.evaluate("resnext11-digits")
    digits, info = flatnext.load("digits"), flatnext.pretrained_info(NAME)
    logits = load_predictor(NAME, device="cpu", overrides={"precision": "fp32"})(digits.test.images)
    nll, brier, ece = oracle(logits.numpy(), digits.test.labels.numpy(), 15)
    assert found["accuracy"] == scores["accuracy"] == info.accuracy
    assert found == pytest.approx({"accuracy": scores["accuracy"], "nll": nll, "brier_score": brier, "ece": ece})
    assert scores["count"] == info.count == 360
    entry = models.shipped()["resnext11-digits"][0]
    assert entry == packed.entry
    assert (entry.first_count, entry.first_correct) == (360, round(entry.accuracy * 360))
    assert entry.bytes == (folder / entry.file).stat().st_size
    assert f"{scores['accuracy']:.2%}".rstrip("%") + " % of 360 test images" in card


def test_the_card_says_where_the_weights_come_from(run, folder):
    card = (folder / f"{NAME}.md").read_text()
    head = card.split("---\n")[1]
    assert card.startswith("---\n")
    for line in ("license: mit", "pipeline_tag: image-classification", "model-index:", f'- name: "{NAME}"'):
        assert line in head.splitlines()
    assert json.loads(re.search(r"```json\n(.*?)```", card, re.DOTALL)[1]) == json.loads(
        (run / "config.json").read_text()
    )
    for fact in (
        "100 trained on, 40 held out",
        "seed 0",
        r"`flatnext train \| tee log`",
        "CC BY 4.0",
        "It is not for:",
    ):
        assert fact in card
    architecture = re.search(r"\*\*Architecture\*\*: (.*)", card)[1].split("; ")
    assert {"3,698 parameters", "blocks 1, 1", "cardinality 2", "bottleneck_width 4", "stem 8"} <= {*architecture}
    assert "after epoch 8, an average" in card
    assert "{{" not in card
    assert "\n\n\n" not in card
    exec(example(card), {})


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "digits", "folder"])
def test_a_card_can_be_written_for_each_data_set(dataset, packed, run):
    record = pack_module._finished(run)
    object.__setattr__(record.config.data, "dataset", dataset)
    origin = models.read_origin(models.read_weights(packed.files[0])[1], packed.files[0])
    card = card_module.model_card(record, "last", origin, packed.entry, packed.measured, NAME)
    assert card_module.NOTES[dataset].limits[0] in card
    assert "]()" not in card


@pytest.mark.parametrize("output", [None, "own"])
def test_in_a_clone_the_package_gets_the_weights_and_the_card_has_their_name(run, tmp_path, monkeypatch, output):
    own = clone(tmp_path / "clone")
    monkeypatch.setattr(catalog, "WEIGHTS", own)
    monkeypatch.chdir(tmp_path)
    new = pack(run, NAME, own if output else None)
    assert new.load_as == NAME
    assert [path.parent for path in new.files] == [own] * 3
    card = new.files[1].read_text()
    assert f'from_pretrained("{NAME}")' in example(card)
    assert f"\n    flatnext evaluate {NAME} --precision fp32\n" in card
    exec(example(card), {})


@pytest.mark.parametrize("output", [None, "my packed"])
def test_elsewhere_the_card_has_the_path(run, tmp_path, monkeypatch, output):
    monkeypatch.setattr(catalog, "WEIGHTS", tmp_path / "site-packages" / "flatnext" / "weights")
    monkeypatch.chdir(tmp_path)
    new = pack(run, NAME, output)
    path = f"{output or 'weights'}/{NAME}.safetensors"
    assert new.load_as == path
    assert not catalog.WEIGHTS.exists()
    assert (tmp_path / path).is_file()
    card = new.files[1].read_text()
    assert example(card).count(f'("{path}")') == 2
    exec(example(card), {})
    command = shlex.split(re.search(r"\n    flatnext (evaluate .*)", card)[1])
    assert command == ["evaluate", path, "--precision", "fp32"]
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert f'written to {output or "weights"}: load them by flatnext.from_pretrained("{path}")' in format_packed(new)


def clone(folder, name="flatnext", source="src"):
    """Return where the weights lie in a clone of a project."""
    (folder / source / "flatnext").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return folder / source / "flatnext" / "weights"


def test_a_clone_is_told_from_an_installed_package(tmp_path, monkeypatch):
    for folder in (REPOSITORY / "src" / "flatnext" / "weights", clone(tmp_path / "clone")):
        monkeypatch.setattr(catalog, "WEIGHTS", folder)
        assert pack_module.default_folder() == folder
    (damaged := clone(tmp_path / "d")).parents[2].joinpath("pyproject.toml").write_text("{")
    others = [clone(tmp_path / "a", name="other"), clone(tmp_path / "b", source="lib"), tmp_path / "c" / "e", damaged]
    for folder in others:
        monkeypatch.setattr(catalog, "WEIGHTS", folder)
        assert str(pack_module.default_folder()) == "weights"


def scores_of(confusion):
    count = sum(map(sum, confusion))
    return Scores(
        loss=1.0, accuracy=sum(row[i] for i, row in enumerate(confusion)) / count, count=count, confusion=confusion
    )


@pytest.mark.parametrize("common", [50, 60, 90])
def test_an_accuracy_near_chance_is_remarked(common):
    """Of 100 images `common` are of one class, from none right of the others to all; the error is SciPy's."""
    deviation = binom(100, common / 100).std()
    for correct in range(common, 101):
        right = min(correct, common)
        rest = correct - right
        scores = scores_of([[right, common - right], [100 - common - rest, rest]])
        remark = measure_module.near_chance(scores)
        assert bool(remark) == (correct - common <= 3 * deviation)
        assert not remark or f"not 3 standard errors (of {deviation / 100:.2%}) above {common}.00%" in remark


def test_weights_that_guess_are_packed_with_a_warning(run, packed, tmp_path):
    shutil.copytree(run, tmp_path / "guess")
    state, metadata = models.read_weights(run / "last.safetensors")
    state["linear.weight"].zero_()
    safetensors.torch.save_file(state, tmp_path / "guess" / "last.safetensors", metadata)
    new = pack(tmp_path / "guess", NAME, tmp_path / "packed")
    (warning,) = (line for line in format_packed(new).splitlines() if line.startswith("warning: "))
    assert "No better than guessing, as far as 360 test images can tell" in warning
    assert f"**{warning.removeprefix('warning: ')}.**" in new.files[1].read_text()
    assert "warning" not in format_packed(packed)
    assert "guessing" not in packed.files[1].read_text()


def test_the_interval_is_wilsons():
    z, n, p = norm.ppf(0.975), 10_000, 0.931
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert card_module.interval(9310, n) == pytest.approx(tuple((centre + s * half) / (1 + z**2 / n) for s in (-1, 1)))


def test_the_short_name_is_the_most_accurate(run, packed, folder, tmp_path):
    other = tmp_path / "other"
    train(tiny(epochs=1, learning_rate=0.001), other)
    for name in ("resnext11-digits-a", "resnext11-digits-z"):
        pack(other, name, folder, checkpoint="best")
    entries = models.shipped()["resnext11-digits"]
    assert [entry.name for entry in entries] == [NAME, "resnext11-digits-a", "resnext11-digits-z"]
    assert entries[0].accuracy > entries[1].accuracy
    assert flatnext.pretrained_info("resnext11-digits").path.stem == NAME
    assert flatnext.pretrained_info("resnext11-digits-z").path.stem == "resnext11-digits-z"
    pack(run, "resnext11-digits-z", folder, overwrite=True)
    assert [entry.name for entry in models.shipped()["resnext11-digits"]][1:] == ["resnext11-digits-z", entries[1].name]


def test_weights_are_loaded_into_a_model_by_name(folder):
    model = flatnext.from_pretrained(NAME)
    again = models.build(flatnext.pretrained_info(NAME).config.model, 10)
    flatnext.load_weights("resnext11-digits", again)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_path_wins_over_a_name(run, folder):
    shutil.copy(run / "last.safetensors", NAME)
    shutil.copytree(run, "resnext11-digits")
    assert flatnext.pretrained_info(NAME).path.name == NAME
    assert flatnext.pretrained_info(NAME).accuracy is None
    assert flatnext.evaluate("resnext11-digits", checkpoint="best")["weights"] == "resnext11-digits/best.safetensors"
    flatnext.from_pretrained(run)


def one_line(caught):
    return "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [flatnext.from_pretrained, flatnext.pretrained_info, flatnext.evaluate])
def test_an_unknown_name_lists_those_that_ship(function, folder):
    with pytest.raises(InputError, match=f"one of resnext11-digits, {NAME}") as caught:
        function("resnext29-cifar10")
    assert one_line(caught)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="none ship with this version"):
        function("resnext29-cifar10")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a bit": (f"{NAME}.safetensors", flip, "is damaged"),
    "truncated": (f"{NAME}.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
    "missing": (f"{NAME}.safetensors", lambda path: path.unlink(), "No such file"),
    "index": ("index.json", lambda path: path.write_text("{"), "index.json is damaged"),
    "entry": ("index.json", lambda path: path.write_text('{"a": [{"name": "b"}]}'), "index.json is damaged"),
    "list": ("index.json", lambda path: path.write_text("[3]"), "index.json is damaged"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(folder, case):
    name, damage, message = DAMAGE[case]
    damage(folder / name)
    with pytest.raises(InputError, match=message) as caught:
        flatnext.from_pretrained(NAME)
    assert one_line(caught)


def test_a_file_of_unknown_origin_is_refused(folder, tmp_path):
    safetensors.torch.save_file(flatnext.from_pretrained(NAME).state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(InputError, match=r"use flatnext\.load_weights"):
        flatnext.from_pretrained("bare.safetensors")
    with pytest.raises(InputError, match="checkpoint is 'best'"):
        flatnext.evaluate(NAME, checkpoint="best")


BAD = [
    ({"name": "tiny"}, "give MODEL-digits-VARIANT"),
    ({"name": "resnext29-cifar10-cpu"}, "give MODEL-digits-VARIANT"),
    ({"name": "../a-digits-b"}, "give MODEL-digits-VARIANT"),
    ({"name": NAME}, "--overwrite"),
    ({"run": "nowhere"}, "not a run folder"),
    ({"run": "unfinished"}, r"no result \(unfinished: 8 of 8 epochs\)"),
    ({"run": "huge"}, r"layer1.0.conv1.weight does not fit into torch.float16"),
    ({"output": "taken"}, "choose another --output"),
    ({"device": "abacus"}, "abacus"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_what_cannot_be_packed_is_refused_and_nothing_written(run, folder, tmp_path, changes, message):
    for name in ("unfinished", "huge"):
        shutil.copytree(run, name)
    (tmp_path / "unfinished" / "result.json").unlink()
    state, metadata = models.read_weights("huge/last.safetensors")
    state["layer1.0.conv1.weight"][0] = 1e6
    safetensors.torch.save_file(state, "huge/last.safetensors", metadata)
    (tmp_path / "taken").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message) as caught:
        pack(**{"run": run, "name": "resnext11-digits-new", "output": folder, **changes})
    assert one_line(caught)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_large_file_is_refused(run, folder, monkeypatch):
    monkeypatch.setattr(pack_module, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 0 can ship"):
        pack(run, "resnext11-digits-new", folder)


def test_rounding_that_changes_the_accuracy_is_refused(run, packed):
    state, metadata = models.read_weights(run / "last.safetensors")
    other = {name: value.roll(1, 0) if name == "linear.weight" else value for name, value in state.items()}
    origin, test = models.read_origin(metadata, run), flatnext.load("digits").test
    with pytest.raises(InputError, match="of 360 images where 1 may change") as caught:
        measure_module.measure(state, other, origin, test, torch.device("cpu"), "x")
    assert one_line(caught)
    same = measure_module.measure(state, state, origin, test, torch.device("cpu"), "x")
    assert (same.changed, same.trained_accuracy) == (0, same.scores.accuracy)


@pytest.mark.parametrize("last", [1, 2, 3])
def test_a_write_that_fails_leaves_no_name_with_other_weights(run, folder, tmp_path, monkeypatch, last):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    state, metadata = models.read_weights(other / "last.safetensors")
    safetensors.torch.save_file(
        {name: value * 1 for name, value in state.items()}, other / "last.safetensors", metadata
    )
    writes = []

    def fail(write):
        def wrapped(path, content):
            writes.append(path)
            if len(writes) > last:
                raise InputError("the disk is full")
            write(path, content)

        return wrapped

    for name in ("write_atomically", "write_json"):
        monkeypatch.setattr(pack_module, name, fail(getattr(pack_module, name)))
    with pytest.raises(InputError, match="disk is full"):
        pack(other, NAME, folder, overwrite=True)
    with pytest.raises(InputError, match="none ship with this version"):
        flatnext.from_pretrained(NAME)


def test_the_command(run, folder, capsys, tmp_path):
    status, out, err = call(capsys, "pack", run, "--name", NAME, "--output", tmp_path / "packed", "--device", "cpu")
    assert (status, err) == (0, "")
    accuracy = f"{models.shipped()['resnext11-digits'][0].accuracy:.2%}"
    assert f"{accuracy} as stored" in out
    assert out.splitlines()[-3:] == [
        str(tmp_path / "packed" / f) for f in (f"{NAME}.safetensors", f"{NAME}.md", "index.json")
    ]
    status, out, _ = call(capsys, "weights")
    assert status == 0
    assert out.splitlines()[1].split() == [NAME, accuracy, "360", "0.0", "quick", "(also:", "resnext11-digits)"]
    status, out, _ = call(capsys, "evaluate", "resnext11-digits", "--json")
    assert status == 0
    assert f"{json.loads(out)['accuracy']:.2%}" == accuracy
    status, _, err = call(capsys, "evaluate", "resnext11")
    assert (status, err.count("\n")) == (2, 1)
    shutil.rmtree(folder)
    assert call(capsys, "weights")[1].startswith("no weights ship")


# What ships


def hits(entry, split):
    logits = load_predictor(entry.name, device="cpu", overrides={"precision": "fp32"})(split.images)
    return logits, score(logits, split.labels)


@pytest.mark.parametrize("entry", CIFAR10, ids=lambda entry: entry.name)
def test_what_ships_finds_its_accuracy_on_the_first_images(entry, cifar10_dir):
    test = data.load("cifar10", cifar10_dir, download=False).test.select(torch.arange(entry.first_count))
    _, scores = hits(entry, test)
    assert abs(round(scores.accuracy * scores.count) - entry.first_correct) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("entry", CIFAR10, ids=lambda entry: entry.name)
def test_what_ships_finds_its_cards_figures(entry, cifar10_dir):
    card = figures((catalog.WEIGHTS / f"{entry.name}.md").read_text())
    test = data.load("cifar10", cifar10_dir, download=False).test
    logits, scores = hits(entry, test)
    found = calibration(logits, test.labels)
    assert card["accuracy"] == entry.accuracy
    assert abs(scores.accuracy - entry.accuracy) * entry.count <= 5
    assert (found.nll, found.brier) == pytest.approx((card["nll"], card["brier_score"]), rel=1e-3)
    assert found.ece == pytest.approx(card["ece"], abs=2e-3)


def test_all_that_ships_is_small_and_has_a_card():
    files = {path.name for path in catalog.WEIGHTS.glob("*")} - {"index.json"}
    assert files == {f"{entry.name}{ending}" for entry in SHIPPED for ending in (".safetensors", ".md")}
    for entry in SHIPPED:
        assert models.find_weights(entry.name).stat().st_size == entry.bytes <= 10_000_000
