"""A checkpoint with a changed bit, or cut short, anywhere: it is named, and the one before it used."""

from __future__ import annotations

import os
import random
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from checkpoints import state_of
from safetensors import safe_open
from tiny import AtStep, tiny

from flatnext.errors import FallbackWarning, InputError
from flatnext.training import Stopped, train
from flatnext.training.checkpoint import Checkpoint, kept_checkpoints, read_checkpoint

CONFIG = tiny("quick-amp", epochs=4, ema=0.9)
DAMAGES = 100


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was stopped in its fourth epoch, of four steps each, and keeps two epochs."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    stop = AtStep(14, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(CONFIG, folder, track=(), display=stop, keep_checkpoints=2)
    return folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return the content with a bit changed, some bytes changed, or cut short."""
    kind, changed = draw.choice(("bit", "bytes", "cut", "head")), bytearray(content)
    place = draw.randrange(len(content) if kind != "head" else 600)  # where names and checksums are
    if kind == "cut":
        return content[:place]
    if kind == "bytes":
        changed[place : place + 9] = draw.randbytes(9)
        return bytes(changed[: len(content)])
    changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def read(folder: Path) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", FallbackWarning)
        checkpoint = read_checkpoint(folder)
    assert checkpoint is not None
    return checkpoint, [str(each.message) for each in said if issubclass(each.category, FallbackWarning)]


def same(left: Checkpoint, right: Checkpoint) -> bool:
    tensors = all(torch.equal(left.weights[name], value) for name, value in right.weights.items())
    return tensors and left.metadata == right.metadata and left.step == right.step


@pytest.mark.parametrize("which", ["weights", "state"])
def test_the_checkpoint_before_a_damaged_one_is_used(folder: Path, which: str) -> None:
    whole, _ = read(folder)
    assert (whole.step, whole.path.name) == (14, "last.safetensors")
    last = folder / "last.safetensors"
    file = last if which == "weights" else state_of(last)
    content, draw, harmless = file.read_bytes(), random.Random(which), 0
    for number in range(DAMAGES):
        bad = damaged(content, draw)
        if bad == content:
            continue
        file.write_bytes(bad)
        checkpoint, said = read(folder)
        if not said:  # it changed nothing, as in a space between two words
            harmless += 1
            assert same(checkpoint, whole), number
            continue
        assert (checkpoint.step, checkpoint.path.name) == (12, "previous.safetensors"), number
        (line,) = said
        assert str(file) in line or (which == "weights" and f"{folder}/" in line), line  # it names the state
        assert "the checkpoint before it is used" in line
        assert "\n" not in line
    assert harmless < DAMAGES / 10


def test_where_both_are_damaged_a_kept_one_is_used_and_where_none_is_whole_that_is_one_line(folder: Path) -> None:
    draw = random.Random(2)
    files = [folder / f"{name}.safetensors" for name in ("last", "previous")]
    for file in [*files, *map(state_of, files)][1:3]:
        file.write_bytes(file.read_bytes()[: draw.randrange(1000)])
    files[0].write_bytes(b"")
    checkpoint, said = read(folder)
    assert checkpoint.path == kept_checkpoints(folder)[3]
    assert f"{files[0]} is damaged; {files[1]} is damaged: the checkpoint before it is used" in said[0]
    for path in kept_checkpoints(folder).values():
        state_of(path).unlink()
    with pytest.raises(InputError) as caught:
        read_checkpoint(folder)
    line = str(caught.value)
    assert all(str(file) in line for file in files)
    assert line.endswith(": start the run anew, with --overwrite or another --output")
    assert "\n" not in line


@pytest.mark.parametrize("kept", [False, True], ids=["previous", "kept"])
def test_a_run_goes_on_from_it_to_the_same_bits_and_never_puts_the_damaged_one_in_the_place_of_a_good_one(
    folder: Path, tmp_path: Path, kept: bool
) -> None:
    damage = [folder / f"{name}.safetensors" for name in (("last", "previous") if kept else ("last",))]
    for file in damage:
        file.write_bytes(file.read_bytes()[:-1])
    config = CONFIG

    def ends() -> None:
        raise KeyboardInterrupt

    with pytest.warns(FallbackWarning, match="the checkpoint before it is used"), pytest.raises(KeyboardInterrupt):
        train(config, folder, track=(), resume=True, display=AtStep(1, ends))  # before it has written another
    checkpoint, said = read(folder)
    assert (checkpoint.step, said) == (12, [])
    train(config, folder, track=(), resume=True)
    train(config, tmp_path / "whole", track=())
    ours, theirs = (safe_open(path / "last.safetensors", "pt") for path in (folder, tmp_path / "whole"))
    with ours, theirs:
        assert all(torch.equal(ours.get_tensor(name), theirs.get_tensor(name)) for name in theirs.keys())  # noqa: SIM118
