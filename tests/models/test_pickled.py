"""Files of `torch.save` that would take for ever to read are refused at once; others are read as by torch."""

import argparse
import collections
import io
import pickle
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from flatnext.errors import InputError
from flatnext.models.pickled import read_pickled


def nested(depth=200):
    key = ()
    for _ in range(depth):
        key = (key, key)
    return key


BOMB = pickle.dumps(nested(), protocol=2)[2:-1]  # without protocol and stop

PICKLES = {
    "key": b"\x80\x02}" + BOMB + b"Ns.",
    "ordered dict": b"\x80\x02ccollections\nOrderedDict\n](]" + b"(" + BOMB + b"Neea\x85R.",
    "counter": b"\x80\x02ccollections\nCounter\n](" + BOMB + b"e\x85R.",
    "set": b"\x80\x02cbuiltins\nset\n](" + BOMB + b"e\x85R.",
    "storage": b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + BOMB + b"X\x03\x00\x00\x00cpuK\x01tQ.",
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("archive", [True, False])
def test_keys_that_take_for_ever_are_refused_at_once(tmp_path, kind, archive):
    path, plain = tmp_path / "weights.pt", tmp_path / "plain.pt"
    torch.save({}, plain, _use_new_zipfile_serialization=archive)
    if archive:
        with zipfile.ZipFile(plain) as before, zipfile.ZipFile(path, "w") as after:
            for name in before.namelist():
                after.writestr(name, PICKLES[kind] if name.endswith("data.pkl") else before.read(name))
    else:
        path.write_bytes(plain.read_bytes().replace(pickle.dumps({}, protocol=2), PICKLES[kind]))
        assert BOMB in path.read_bytes()
    with pytest.raises(InputError, match="not a weights file, or damaged"):
        read_pickled(path)


def test_a_file_that_ends_as_an_archive_is_none(tmp_path):
    path, appended = tmp_path / "weights.pt", io.BytesIO()
    torch.save({}, path, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(appended, "w") as archive:
        archive.writestr("x/readme.txt", "nothing")
    plain = path.read_bytes().replace(pickle.dumps({}, protocol=2), PICKLES["key"])
    path.write_bytes(plain + appended.getvalue())
    assert zipfile.is_zipfile(path)
    with pytest.raises(InputError, match="not a weights file, or damaged"):
        read_pickled(path)


@pytest.mark.parametrize("archive", [True, False])
def test_what_torch_reads_is_read(tmp_path, archive):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ordered": collections.OrderedDict([("a", 1), (("b", 2), 3)]),
        "counts": collections.Counter("aab"),
        "numbers": {1: 2.0, (3, "x"): [4], "set": {5, 6}},
        "best": np.float64(0.5),
    }
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=archive)
    found = read_pickled(tmp_path / "w.pt")
    assert found.keys() == content.keys()
    assert all(torch.equal(found["model"][name], value) for name, value in content["model"].items())
    for key in ("ordered", "counts", "numbers", "best"):
        assert found[key] == content[key]


def test_files_are_read_by_threads_and_what_a_program_allows_stays(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"best": np.float64(0.5), "args": argparse.Namespace(a=1)}, path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        before = set(torch.serialization.get_safe_globals())
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: read_pickled(path), range(40)))
        assert all(item["best"] == 0.5 for item in found)
        assert set(torch.serialization.get_safe_globals()) == before
