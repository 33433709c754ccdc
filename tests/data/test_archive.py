"""Archives: fetched from a server on this machine, checked, and there whole or not at all."""

import errno
import functools
import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cifar_files import LAYOUT_IDS, layout_of, publish_archive

from flatnext.data import archive as archives
from flatnext.data import cifar, load
from flatnext.data.archive import Archive, fetch, unpack
from flatnext.errors import InputError
from flatnext.runs.lock import lock


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_):
        pass


class Cut(Quiet):
    """Sends fewer bytes than it promises."""

    def copyfile(self, source, outputfile):
        outputfile.write(source.read()[:-1000])


class CutChunks(Quiet):
    """Announces a chunk and sends a part of it, without saying how much there is in all."""

    protocol_version = "HTTP/1.1"

    def end_headers(self):
        self._headers_buffer = [line for line in self._headers_buffer if not line.startswith(b"Content-Length")]
        self.send_header("Transfer-Encoding", "chunked")
        super().end_headers()

    def copyfile(self, source, outputfile):
        outputfile.write(b"ffff\r\n" + source.read()[:100])
        self.close_connection = True


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves a folder and makes it the place to download from."""
    servers = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def start(folder, handler=Quiet):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(archives, "BASE_URL", url)
        return url

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def refused(data_dir, *words, name="cifar10"):
    """Load, expect an `InputError` of one line, and that it left the disk as it was."""
    before = sorted(data_dir.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        load(name, data_dir)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    assert sorted(data_dir.parent.rglob("*")) == before


# What goes well


@pytest.mark.parametrize("identifier", LAYOUT_IDS)
def test_an_archive_in_the_folder_is_unpacked_beside_itself(monkeypatch, tmp_path, identifier):
    path, layout, batches = publish_archive(monkeypatch, tmp_path, identifier)
    dataset = load(identifier.split("-")[0], tmp_path, download=False)
    assert np.array_equal(dataset.test.images.flatten(1).numpy(), batches[layout.test][0])
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / layout.archive.folder])


@pytest.mark.parametrize("progress", [False, True])
def test_a_download_is_unpacked_and_read_again_without_the_server(monkeypatch, tmp_path, serve, capfd, progress):
    path, layout, batches = publish_archive(monkeypatch, tmp_path / "server")
    serve(path.parent)
    data_dir = tmp_path / "new" / "data"
    dataset = load("cifar10", data_dir, progress=progress)
    assert np.array_equal(dataset.test.images.flatten(1).numpy(), batches[layout.test][0])
    assert [child.name for child in data_dir.iterdir()] == [layout.archive.folder]
    output = capfd.readouterr()
    assert output.out == ""
    assert (layout.archive.name in output.err) == progress
    if not progress:
        assert output.err == ""
    monkeypatch.setattr(archives, "BASE_URL", "http://127.0.0.1:1/")
    assert len(load("cifar10", data_dir).train) == len(dataset.train)


def test_another_process_may_be_faster(monkeypatch, tmp_path):
    path, layout, _ = publish_archive(monkeypatch, tmp_path)
    target = tmp_path / layout.archive.folder
    real = os.replace

    def replace_late(source, destination):
        target.mkdir()
        (target / "theirs").touch()
        real(source, destination)

    monkeypatch.setattr(os, "replace", replace_late)
    assert unpack(layout.archive, tmp_path) == target
    assert sorted(tmp_path.rglob("*")) == sorted([path, target, target / "theirs"])


# What goes wrong


def test_no_network(monkeypatch, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(archives, "BASE_URL", f"http://127.0.0.1:{port}/")
    data_dir = tmp_path / "a" / "b"
    refused(data_dir, f"http://127.0.0.1:{port}/cifar-10-python.tar.gz", "put cifar-10-python.tar.gz into", data_dir)
    assert not (tmp_path / "a").exists()


def test_not_on_the_server(tmp_path, serve):
    (tmp_path / "server").mkdir()
    url = serve(tmp_path / "server")
    refused(tmp_path / "data", url + "cifar-100-python.tar.gz", "HTTP status 404", "--data-dir", name="cifar100")


def test_a_download_of_another_hash(monkeypatch, tmp_path, serve):
    path, layout, _ = publish_archive(monkeypatch, tmp_path / "server")
    path.write_bytes(path.read_bytes() + b"\0")
    url = serve(path.parent)
    found = hashlib.md5(path.read_bytes()).hexdigest()
    refused(tmp_path / "data", url + path.name, found, layout.archive.md5, "--data-dir")


@pytest.mark.parametrize(("handler", "words"), [(Cut, "of"), (CutChunks, "bytes")])
def test_a_download_that_breaks_off(monkeypatch, tmp_path, serve, handler, words):
    path, *_ = publish_archive(monkeypatch, tmp_path / "server")
    url = serve(path.parent, handler)
    refused(tmp_path / "data", f"the download of {url}{path.name} broke off after", words, "try again")


def test_a_truncated_archive(monkeypatch, tmp_path):
    path, layout, _ = publish_archive(monkeypatch, tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    refused(tmp_path, path, hashlib.md5(path.read_bytes()).hexdigest(), layout.archive.md5, "delete it")


@pytest.mark.parametrize("content", ["cut", "no gzip", "without the folder", "escaping"])
def test_an_archive_with_the_right_hash_and_wrong_content(monkeypatch, tmp_path, content):
    """The hash rules these out for the published files; whoever adds an archive gets one line all the same."""
    path, layout, _ = publish_archive(monkeypatch, tmp_path / "data")
    if content == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif content == "no gzip":
        path.write_bytes(b"nothing of the kind")
    else:
        (tmp_path / "x").touch()
        with tarfile.open(path, "w:gz") as tar:
            tar.add(tmp_path / "x", "../../escaped" if content == "escaping" else "x")
    archive = Archive(path.name, hashlib.md5(path.read_bytes()).hexdigest(), layout.archive.folder)
    monkeypatch.setitem(cifar.LAYOUTS, "cifar10", (replace(layout, archive=archive),))
    refused(path.parent, path, "delete it")


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_is_full_while_unpacking(monkeypatch, tmp_path):
    path, _, _ = publish_archive(monkeypatch, tmp_path)
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    refused(tmp_path, path, os.strerror(errno.ENOSPC))


class FullFile(io.BytesIO):
    """A file on a full disk."""

    write = staticmethod(full)


def test_a_disk_that_is_full_while_downloading(monkeypatch, tmp_path, serve):
    path, _, _ = publish_archive(monkeypatch, tmp_path / "server")
    url = serve(path.parent)
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r", **_: FullFile() if mode == "wb" else real(path, mode))
    refused(tmp_path / "data", url + path.name, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "data").exists()


def test_ctrl_c_leaves_nothing(monkeypatch, tmp_path, serve):
    path, layout, _ = publish_archive(monkeypatch, tmp_path / "server")
    serve(path.parent)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(tarfile, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(layout.archive, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_leftovers_of_a_kill_are_cleared_but_not_what_is_in_use(monkeypatch, tmp_path):
    publish_archive(monkeypatch, tmp_path)
    left, used = tmp_path / ".unpacking-left", tmp_path / ".unpacking-used"
    for folder in (left, used):
        folder.mkdir()
        (folder / "half.tar.gz").touch()
    with lock(used):
        load("cifar10", tmp_path, download=False)
    assert not left.exists()
    assert (used / "half.tar.gz").exists()


def test_a_data_dir_that_is_a_file(monkeypatch, tmp_path, serve):
    path, _, _ = publish_archive(monkeypatch, tmp_path / "server")
    serve(path.parent)
    (tmp_path / "data").touch()
    refused(tmp_path / "data", path.name)


def test_the_published_hashes():
    published = {layout.archive.name: layout.archive.md5 for layouts in cifar.LAYOUTS.values() for layout in layouts}
    assert published["cifar-10-python.tar.gz"] == "c58f30108f718f92721af3b95e74349a"
    assert published["cifar-10-binary.tar.gz"] == "c32a1d4ab5d03f1284b67883e8d87530"
    assert published["cifar-100-python.tar.gz"] == "eb9058c3a382ffc7106e4002c42a8d85"
    assert layout_of("cifar10-python")[1].archive.folder == "cifar-10-batches-py"
    assert archives.BASE_URL == "https://www.cs.toronto.edu/~kriz/"
