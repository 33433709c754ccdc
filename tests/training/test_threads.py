"""The number of threads of a run: measured once, kept with the run, and never over what the user has set."""

import pytest
import torch
from said import Said
from tiny import AtStep, tiny

from flatnext.errors import InputError
from flatnext.runs.reading import ENVIRONMENT, read_environment
from flatnext.training import train
from flatnext.training.threads import fastest, thread_numbers

CHOOSER = "flatnext.training.threads"


@pytest.fixture
def two_threads(monkeypatch):
    """Return the calls of the measurement on a machine of two cores, where one thread is about as fast as two."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(f"{CHOOSER}.cores", lambda: 2)
    before, calls = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def rates(run, numbers):
        calls.append(list(numbers))
        return {2: 100.0, 1: 95.0}

    monkeypatch.setattr(f"{CHOOSER}.measured_rates", rates)
    yield calls
    torch.set_num_threads(before)


def threads_of(folder):
    return read_environment(folder / ENVIRONMENT).threads


def test_numbers_that_are_tried():
    assert thread_numbers(1) == [1]
    assert thread_numbers(2) == [2, 1]
    assert thread_numbers(12) == [12, 6, 3, 1]


def test_the_fewest_of_about_the_fastest():
    assert fastest({4: 100.0, 2: 95.0, 1: 60.0}) == 2
    assert fastest({4: 100.0, 2: 89.0, 1: 60.0}) == 4


def test_the_number_is_measured_and_kept(two_threads, tmp_path):
    def stop():
        raise KeyboardInterrupt

    config = tiny(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", threads="auto", display=AtStep(5, stop))
    assert threads_of(tmp_path / "run") == 1
    assert torch.get_num_threads() == 2
    train(config, tmp_path / "run", threads="auto", resume=True)
    assert threads_of(tmp_path / "run") == 1
    assert two_threads == [[2, 1]]


def test_other_threads_than_before_are_told(two_threads, tmp_path, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    config, said = tiny(epochs=2), Said()
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", threads=1, display=AtStep(5, stop))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    train(config, tmp_path / "run", threads="auto", resume=True, display=said)
    assert "computes with 2 threads, before with 1: its bits depend on that" in said.lines


def test_what_the_user_has_set_is_kept(two_threads, tmp_path, monkeypatch):
    config = tiny(epochs=1)
    train(config, tmp_path / "number", threads=1)
    train(config, tmp_path / "torchs")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    train(config, tmp_path / "variable", threads="auto")
    assert [threads_of(tmp_path / name) for name in ("number", "torchs", "variable")] == [1, 2, 2]
    assert not two_threads
    with pytest.raises(InputError, match="threads is 0: give a number from 1, or auto"):
        train(config, tmp_path / "none", threads=0)


def test_measuring_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(f"{CHOOSER}.thread_numbers", lambda most: [1, 1])
    config = tiny(epochs=1)
    results = [train(config, tmp_path / str(threads), threads=threads) for threads in ("auto", 1)]
    assert results[0].last == results[1].last
