"""Two checkpoints are kept; damage of the last one is noticed and named, and the one before it is used."""

import os
import signal
from pathlib import Path

import pytest
from checkpoints import state_of
from safetensors.torch import load_file
from tiny import AtStep, tiny

from flatnext.errors import FallbackWarning, InputError
from flatnext.training import Stopped, train

CONFIG = tiny("quick-amp", epochs=4, ema=0.9)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The weights of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(CONFIG, folder, track=())
    assert not list(folder.glob("state-*.pt"))
    assert not (folder / "previous.safetensors").exists()
    return load_file(folder / "last.safetensors")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped in its third epoch, of four steps each."""
    folder = tmp_path / "run"
    stop = AtStep(10, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Stopped):
        train(CONFIG, folder, track=(), display=stop)
    return folder


def flip_a_bit(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def test_two_checkpoints_are_kept_with_their_states(stopped: Path) -> None:
    states = [state_of(stopped / name) for name in ("previous.safetensors", "last.safetensors")]
    assert [state.name[:15] for state in states] == ["state-000000008", "state-000000010"]
    assert set(stopped.glob("state-*.pt")) == set(states)


@pytest.mark.parametrize("which", ["weights", "state"])
@pytest.mark.parametrize("damage", [lambda p: flip_a_bit(p, 0.9), lambda p: flip_a_bit(p, 0.6), lambda p: cut(p, 0.7)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    stopped: Path, whole: dict, which: str, damage
) -> None:
    last = stopped / "last.safetensors"
    file = last if which == "weights" else state_of(last)
    damage(file)
    with pytest.warns(FallbackWarning, match=rf"{file.name}.*: the checkpoint before it is used, .*previous"):
        train(CONFIG, stopped, resume=True, track=())
    ours = load_file(last)
    assert all((ours[name] == value).all() for name, value in whole.items())
    assert len((stopped / "metrics.jsonl").read_text().splitlines()) == 4


def test_where_both_are_damaged_it_is_said(stopped: Path) -> None:
    for name in ("last", "previous"):
        flip_a_bit(stopped / f"{name}.safetensors", 0.9)
    with pytest.raises(InputError, match=r"previous\.safetensors is damaged: its content has changed"):
        train(CONFIG, stopped, resume=True, track=())
