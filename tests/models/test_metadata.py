import json

import pytest
import safetensors.torch
import torch

from flatnext.errors import InputError
from flatnext.models import add_metadata, read_weights

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).half(), "b": torch.tensor(7), "c": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save(TENSORS, {"format": "pt", "step": "3"}))
    return path


def same_tensors(path):
    state, _ = read_weights(path)
    return all(torch.equal(state[name], tensor) for name, tensor in TENSORS.items()) and len(state) == len(TENSORS)


@pytest.mark.parametrize("text", ["", "1", "é ∑ \n", "x" * 30_000])
def test_metadata_is_added_and_the_rest_stays(file, text):
    add_metadata(file, {"step": "4", "more": text})
    assert read_weights(file)[1] == {"format": "pt", "step": "4", "more": text}
    assert same_tensors(file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_same_again_is_the_same_file(file):
    add_metadata(file, {"more": "1"})
    content = file.read_bytes()
    add_metadata(file, {"more": "1"})
    assert file.read_bytes() == content
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    json.loads(content[8 : 8 + length])


def test_another_file_leaves_the_first_as_it_was(file, tmp_path):
    content = file.read_bytes()
    add_metadata(file, {"more": "1"}, tmp_path / "y.safetensors")
    assert file.read_bytes() == content
    assert same_tensors(tmp_path / "y.safetensors")


def test_a_file_without_metadata_gets_some(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save(TENSORS))
    add_metadata(path, {"more": "1"})
    assert read_weights(path)[1] == {"more": "1"}
    assert same_tensors(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"\x05\0\0\0\0\0\0\0[1,2]", b"\xff" * 20])
def test_what_is_no_safetensors_file_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a safetensors file"):
        add_metadata(path, {"more": "1"})
    assert path.read_bytes() == content


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot read the weights file"):
        add_metadata(tmp_path / "x.safetensors", {})
