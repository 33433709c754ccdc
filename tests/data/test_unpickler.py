"""Pickles that call something are refused and not run; damaged ones are refused in one line."""

import io
import os
import pickle
from contextlib import suppress

import numpy as np
import pytest
from cifar_files import layout_of, write_set
from hypothesis import given, settings
from hypothesis import strategies as st

from flatnext.data import load
from flatnext.data.bounded_pickle import BoundedUnpickler
from flatnext.data.unpickler import read_pickle
from flatnext.errors import InputError


def one_line(caught, *words):
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


class Trap:
    """An object whose pickle runs a shell command where it is read without care."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path):
    name, layout = layout_of("cifar10-python")
    write_set(tmp_path, layout)
    marker = tmp_path / "called"
    content = pickle.dumps({"data": Trap(os.system, f"touch {marker}"), "labels": [1]})
    pickle.loads(content)  # the trap is a live one
    assert marker.exists()
    marker.unlink()
    (tmp_path / "data_batch_3").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    one_line(caught, tmp_path / "data_batch_3", "system", "published")
    assert not marker.exists()
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "call",
    [(eval, "1"), (getattr, "x", "y"), (np.load, "x"), (np.memmap, "x"), (np.dtype, "O"), (np.frombuffer, b"1")],
    ids=lambda call: call[0].__name__,
)
def test_no_other_callable_is_let_through(tmp_path, call):
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps({"data": Trap(*call)}))
    with pytest.raises(InputError) as caught:
        read_pickle(path)
    one_line(caught, path)


@pytest.mark.parametrize(
    "state",
    [
        b"(K\x01K\x05\x85cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR\x89C\x02abt",  # 5 bytes said, 2 there
        b"(K\x01J\xff\xff\xff\xff\x85cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR\x89C\x02abt",  # -1 bytes
        b"(K\x01\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01\x85cnumpy\ndtype\n(X\x02\x00\x00\x00u1K\x00K\x01tR\x89C\x02abt",
        b"(K\x01K\x02\x85cnumpy\ndtype\n\x89C\x02abt",  # the type itself in place of one made
        b"K\x01",
    ],
    ids=["too large", "negative", "absurd", "no dtype", "no tuple"],
)
def test_absurd_arrays_are_refused(tmp_path, state):
    path = tmp_path / "batch"
    make = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    path.write_bytes(b"\x80\x03}X\x04\x00\x00\x00data" + make + state + b"bs.")
    with pytest.raises(InputError) as caught:
        read_pickle(path)
    one_line(caught, path, "published")


def test_nested_tuples_are_refused_at_once(tmp_path):
    path = tmp_path / "batch"
    nested = b"K\x00" + b"2\x86" * 90  # ((0, 0), (0, 0)) and so on: two to the ninetieth when it is written out
    path.write_bytes(b"\x80\x02}X\x04\x00\x00\x00datacnumpy\ndtype\n(" + nested + b"tRs.")
    with pytest.raises(InputError) as caught:
        read_pickle(path)
    assert len(one_line(caught, path, "published", "tuple")) < 300


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "batch")
    with pytest.raises(InputError) as caught:
        read_pickle(tmp_path / "batch")
    one_line(caught, tmp_path / "batch", "not a regular file")


def test_an_array_without_content_is_empty(tmp_path):
    path = tmp_path / "batch"
    path.write_bytes(b"\x80\x03}X\x04\x00\x00\x00datacnumpy.core.multiarray\n_reconstruct\n)Rs.")
    assert read_pickle(path)["data"].shape == (0,)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_gives_a_result_or_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "flipped"
    content = bytearray(
        pickle.dumps({"data": np.zeros((2, 4), np.uint8), "labels": [1, 2]}, protocol=2 + data.draw(st.integers(1, 2)))
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(InputError):  # any other exception, a warning too, fails the test
        assert isinstance(read_pickle(path), dict)


def nested(depth=200):
    """Return a tuple that takes for ever to be hashed, and a hundred bytes or so."""
    key = ()
    for _ in range(depth):
        key = (key, key)
    return key


def pickled_with_key(kind):
    """Return a pickle of a dict or set that has such a tuple in it, made without hashing it."""
    bomb = pickle.dumps(nested(), protocol=2)[2:-1]  # without protocol and stop
    return {
        "item": b"\x80\x02}" + bomb + b"N" + b"s.",
        "items": b"\x80\x02}(" + bomb + b"Nu.",
        "dict": b"\x80\x02(" + bomb + b"Nd.",
        "set": b"\x80\x04\x8f(" + bomb + b"\x90.",
        "frozen set": b"\x80\x04(" + bomb + b"\x91.",
        "number": b"\x80\x02}\x8b" + (9).to_bytes(4, "little") + b"\xff" * 8 + b"\x01" + b"Ns.",
    }[kind]


@pytest.mark.parametrize("kind", ["item", "items", "dict", "set", "frozen set", "number"])
def test_keys_that_take_for_ever_are_refused_at_once(tmp_path, kind):
    path = tmp_path / "batch"
    path.write_bytes(pickled_with_key(kind))
    with pytest.raises(InputError) as caught:
        read_pickle(path)
    one_line(caught, path, "damaged or not a CIFAR file")


def test_short_tuples_may_be_keys():
    content = {("a", 1): 1, b"b": 2, "c": {3, 4}, 5: frozenset({6})}
    assert BoundedUnpickler(io.BytesIO(pickle.dumps(content))).load() == content
