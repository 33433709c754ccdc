"""Packing a run: what is written, and what is refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
import safetensors.torch
import torch
from packed import NAME, example, one_line
from places import REPOSITORY
from scipy.stats import binom

import flatnext
from flatnext import cli, models
from flatnext.deploy import measure as measure_module
from flatnext.deploy import pack as pack_module
from flatnext.deploy.pack import format_packed, pack
from flatnext.errors import InputError
from flatnext.models import catalog
from flatnext.runs.scores import Scores


def call(capsys, *arguments):
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


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


BAD = [
    ({"name": "tiny"}, "give MODEL-digits-VARIANT"),
    ({"name": "resnext29-cifar10-cpu"}, "give MODEL-digits-VARIANT"),
    ({"name": "../a-digits-b"}, "give MODEL-digits-VARIANT"),
    ({"name": NAME}, "--overwrite"),
    ({"run": "nowhere"}, "nowhere does not exist: give the folder of a run"),
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
    origin, test = models.read_origin(metadata, run), flatnext.load_data("digits").test
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


def test_ctrl_c_within_the_writing_leaves_nothing(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(run, NAME, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    pack(run, NAME, tmp_path / "new")


def test_an_entry_that_another_command_writes_meanwhile_stays(run, tmp_path, monkeypatch):
    write, other = pack_module.write_atomically, "resnext11-digits-other"

    def meanwhile(path, content):
        monkeypatch.setattr(pack_module, "write_atomically", write)
        pack(run, other, tmp_path / "new")
        write(path, content)

    monkeypatch.setattr(pack_module, "write_atomically", meanwhile)
    pack(run, NAME, tmp_path / "new")
    assert {entry.name for entry in models.shipped(tmp_path / "new")["resnext11-digits"]} == {NAME, other}


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
    name, *figures, recipe, differing = out.splitlines()[1].split(maxsplit=5)
    assert (name, figures, recipe) == (NAME, [accuracy, "360", "0.0"], "quick")
    assert "train_images=100" in differing
    assert differing.endswith("(also: resnext11-digits)")
    status, out, _ = call(capsys, "evaluate", "resnext11-digits", "--json")
    assert status == 0
    assert f"{json.loads(out)['accuracy']:.2%}" == accuracy
    status, _, err = call(capsys, "evaluate", "resnext11")
    assert (status, err.count("\n")) == (2, 1)
    shutil.rmtree(folder)
    assert call(capsys, "weights")[1].startswith("no weights ship")
