import asyncio
import contextlib
import importlib
import json
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
import uvicorn
from ports import free_port
from served import CLASSES, SIZE, colour, encoded, write_model
from serving import serving
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.importer import import_from_string
from uvicorn.protocols.http import auto

from flatnext.config import Config
from flatnext.deploy.manifest import Golden
from flatnext.errors import FallbackWarning, InputError
from flatnext.serve import connections, server
from flatnext.serve.server import check_exported, listen, serve
from flatnext.serve.settings import ServeSettings

RED = encoded(colour(255, 30, 30))
IMAGE = {"Content-Type": "image/png"}

WITHOUT_TORCH = """
import os, signal, sys, threading, time, urllib.request
from flatnext.cli import main

def ask():
    while True:
        time.sleep(0.1)
        try:
            data = open(sys.argv[2], "rb").read()
            url = f"http://127.0.0.1:{sys.argv[3]}/predict?map=true"
            request = urllib.request.Request(url, data, {"Content-Type": "image/png"})
            print(urllib.request.urlopen(request, timeout=10).read().decode(), flush=True)
            break
        except urllib.error.URLError:
            pass
    print(sorted({"torch", "scipy", "sklearn", "matplotlib"} & set(sys.modules)), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=ask, daemon=True).start()
sys.exit(main(["serve", sys.argv[1], "--port", sys.argv[3]]))
"""


def test_answers_without_torch(model_file, tmp_path):
    picture = tmp_path / "red.png"
    picture.write_bytes(RED)
    command = [sys.executable, "-c", WITHOUT_TORCH, model_file, picture, str(free_port())]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    serving_, answers, modules = result.stdout.splitlines()
    assert serving_.startswith("serving colours at http://127.0.0.1:")
    assert json.loads(answers)["images"][0]["label"] == "red"
    assert modules == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_what_was_accepted(model_file, number):
    with serving(model_file) as service:
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
            lines = (
                "POST /predict HTTP/1.1",
                "Host: localhost",
                "Content-Type: image/png",
                f"Content-Length: {len(RED)}",
            )
            client.sendall("\r\n".join((*lines, "", "")).encode() + RED[:20])
            while not httpx.get(f"{service.url}/metrics").text.count("flatnext_requests_waiting 1.0"):
                time.sleep(0.05)
            service.process.send_signal(number)
            time.sleep(0.5)
            assert service.process.poll() is None
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", service.port), timeout=30)
            client.sendall(RED[20:])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"label":"red"' in answer
        assert service.end() == (0, "")


async def slow(scope, receive, send):
    """Answer after a second."""
    await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def seconds_until_closed(port, content):
    """Return what came back for what was sent, and after how many seconds the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(content)
    answer = await asyncio.wait_for(reader.read(), timeout=20)
    writer.close()
    return answer, time.monotonic() - began


@pytest.fixture(params=["h11", "httptools"])
def connection(request, monkeypatch):
    """Return the protocol of the service as it is with either of uvicorn's parsers."""
    monkeypatch.setattr(auto, "AutoHTTPProtocol", import_from_string(HTTP_PROTOCOLS[request.param]))
    yield importlib.reload(connections).Connection
    monkeypatch.undo()
    importlib.reload(connections)


def test_a_connection_without_a_request_is_closed_and_an_answer_is_waited_for(connection):
    async def ask():
        with listen("127.0.0.1", 0) as listening:
            config = uvicorn.Config(slow, http=connection, log_config=None, lifespan="off", timeout_keep_alive=0.3)
            server = uvicorn.Server(config)
            running = asyncio.create_task(server.serve(sockets=[listening]))
            head = b"GET / HTTP/1.1\r\nHost: a\r\n"
            sent = (b"", head, head + b"\r\n", head + b"\r\n" + head)
            port = listening.getsockname()[1]
            closed = await asyncio.gather(*(seconds_until_closed(port, content) for content in sent))
            server.should_exit = True
            await running
            return closed

    silent, half, whole, again = asyncio.run(ask())
    assert silent[0] == half[0] == b""
    assert max(silent[1], half[1]) < 10  # without a limit it is never
    for answer, seconds in (whole, again):
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"ok")
        assert 1 <= seconds < 10


async def large(scope, receive, send):
    """Answer with more than a socket holds."""
    content = bytes(10**7)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10000000")]})
    await send({"type": "http.response.body", "body": content})


def test_a_client_that_takes_nothing_of_its_answer_is_left(connection):
    async def ask(seconds):
        """Return after how many seconds the service has ended that was asked to while a client read nothing."""
        with listen("127.0.0.1", 0) as listening:
            config = uvicorn.Config(large, http=connection, log_config=None, lifespan="off", timeout_keep_alive=seconds)
            server = uvicorn.Server(config)
            running = asyncio.create_task(server.serve(sockets=[listening]))
            with socket.create_connection(listening.getsockname()[:2]) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await asyncio.sleep(0.2)
                server.should_exit, began = True, time.monotonic()
                await asyncio.wait_for(running, timeout=20)
                return time.monotonic() - began

    assert asyncio.run(ask(0.3)) < 10  # without a limit it is never


def test_the_process_serves_with_its_limits(model_file, monkeypatch):
    made = []
    monkeypatch.setattr(server, "_until_signal", lambda uvicorns, listening: made.append(uvicorns.config))
    serve(model_file, ServeSettings(port=0))
    (config,) = made
    assert config.http is connections.Connection
    assert (config.limit_concurrency, config.timeout_keep_alive) == (server.CONNECTIONS, server.IDLE)
    assert config.timeout_graceful_shutdown > ServeSettings().timeout
    assert [config.proxy_headers, config.server_header, config.access_log] == [False] * 3


def test_raw_nonsense_on_the_socket(model_file):
    with serving(model_file) as service:
        for nonsense in (b"\x16\x03\x01\x02\x00", b"GET /\r\n\r\n", b"A" * 100_000, b"POST /predict HTTP/1.1\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                try:
                    answer = b"".join(iter(lambda: client.recv(65536), b""))
                except ConnectionResetError:
                    answer = b""
                assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        large = httpx.post(f"{service.url}/predict", content=b"x" * 25_000_000, headers=IMAGE, timeout=30)
        assert large.status_code == 413
        assert httpx.post(f"{service.url}/predict", content=RED, headers=IMAGE).status_code == 200
        status, _ = service.stop()
        assert status == 0


def test_the_token_of_the_environment(model_file):
    with serving(model_file, "--host", "0.0.0.0", FLATNEXT_TOKEN="abc") as service:
        assert httpx.get(f"{service.url}/model").status_code == 401
        assert httpx.get(f"{service.url}/model", headers={"Authorization": "Bearer abc"}).status_code == 200
        assert service.stop() == (0, "")


@pytest.mark.parametrize("name", ["last.safetensors", "runs/mine", "model.pt"])
def test_what_is_not_exported(tmp_path, name):
    if name == "runs/mine":
        (tmp_path / name).mkdir(parents=True)
        for file, content in {"config.json": Config().to_json(), "environment.json": {}}.items():
            (tmp_path / name / file).write_text(json.dumps(content))
    else:
        (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(InputError, match=f"{name} is no .onnx file: make one with flatnext export"):
        check_exported(tmp_path / name)


def test_a_model_that_answers_otherwise_here(tmp_path):
    golden = Golden.of(np.zeros((3, SIZE, SIZE), np.uint8), np.array([1.0, 2.0, 3.0]))
    path = write_model(tmp_path / "other.onnx", golden=(golden,))
    with pytest.raises(InputError, match="does not answer as it did when it was exported"):
        serve(path, ServeSettings(port=0))


def test_no_such_model(tmp_path):
    with pytest.raises(InputError, match=r"does not exist: give an .onnx file"):
        serve(tmp_path / "missing.onnx", ServeSettings(port=0))


def test_the_address_is_taken():
    with listen("127.0.0.1", 0) as listening, pytest.raises(InputError, match=r"cannot listen .* --port"):
        listen("127.0.0.1", listening.getsockname()[1])
    with pytest.raises(InputError, match="cannot listen"):
        listen("192.0.2.1", 0)


def test_a_missing_library(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "NEEDS", ("no_such_library",))
    with pytest.raises(InputError, match=r"pip install '\.\[serve\]'"):
        serve(tmp_path / "model.onnx", ServeSettings())


def test_what_is_said_at_the_start(capsys):
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        server._say("m", ServeSettings(), listening, sets=True)
        assert capsys.readouterr().out == f"serving m at http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        with pytest.warns(FallbackWarning, match="everybody who reaches"):
            server._say("m", ServeSettings(host="0.0.0.0"), listening, sets=True)
        with pytest.warns(FallbackWarning, match="no calibration"):
            server._say("m", ServeSettings(), listening, sets=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 70000}, "port"),
        ({"timeout": 0.0}, "timeout"),
        ({"threads": 0}, "threads"),
        ({"token": ""}, "token"),
        ({"token": "a b"}, "token"),
        ({"token": "ä"}, "token"),
        ({"threshold": 1.5}, "threshold"),
        ({"host": ""}, "host"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        ServeSettings(**settings)


def test_the_token_is_not_shown():
    assert "s3cret" not in repr(ServeSettings(token="s3cret"))


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.2", True), ("::1", True), ("localhost", True), ("::", False)])
def test_loopback(host, loopback):
    assert ServeSettings(host=host).loopback is loopback


def test_many_classes(started, tmp_path):
    classes = (*CLASSES, *(f"class {place}" for place in range(997)))
    golden = Golden.of(np.zeros((3, SIZE, SIZE), np.uint8), np.zeros(1000))
    request = started(write_model(tmp_path / "many.onnx", classes=classes, golden=(golden,)))
    (image,) = request("POST", "/predict?top=1000", content=RED, headers=IMAGE).json()["images"]
    assert sorted(each["label"] for each in image["top"]) == sorted(classes)


@pytest.mark.parametrize("part", ["fields", "field", "target", "trailers"])
def test_a_head_without_an_end_is_refused(connection, part):
    begins = {
        "fields": b"GET / HTTP/1.1\r\nHost: a\r\n",
        "field": b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        "target": b"GET /",
        "trailers": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
    }
    more = {"fields": b"a:b\r\n", "trailers": b"a:b\r\n"}.get(part, b"aaaaa")

    async def ask():
        with listen("127.0.0.1", 0) as listening:
            config = uvicorn.Config(slow, http=connection, log_config=None, lifespan="off", timeout_keep_alive=5)
            server = uvicorn.Server(config)
            running = asyncio.create_task(server.serve(sockets=[listening]))
            reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
            writer.write(begins[part])
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 4_000_000 and not reader.at_eof():
                    writer.write(more * 2000)
                    await writer.drain()
                    sent += 2000 * len(more)
                    await asyncio.sleep(0.005)
            writer.close()
            server.should_exit = True
            await running
            return sent

    assert asyncio.run(ask()) < 2_000_000
