"""The service beside the bare runtime on the same core, with 64 clients; and the time to a first answer.

    flatnext export resnext29-cifar10 --to onnx --output model.onnx
    python benchmarks/serve.py model.onnx

The service (`flatnext serve --threads 1`) and the bare runtime (ONNX Runtime in a process of its own, one thread, the
best of several batch sizes) run in turns on the same core; the clients have another core. Each client keeps a
connection and sends the next image when it has the last one's answer. A round's ratio is that of its two turns.

Beside the images a second by the clock there are those a second of processor time (of all threads of the process, and
of the kernel for it): on a machine that does other work as well, only these can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from flatnext.deploy.onnx_model import OnnxModel

BATCHES = (1, 8, 32)
IMAGES = 256
WARM = 2
"""Answers a client at the start of a turn, that are not counted."""


def main() -> None:
    """Measure, and print a line of JSON for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn")
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    server_core, client_core, *_ = sorted(os.sched_getaffinity(0))
    result = {"first_answer_seconds": [first_answer(options.model) for _ in range(options.starts)]}
    print(json.dumps(result))
    os.sched_setaffinity(0, {client_core})
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    bare = multiprocessing.get_context("spawn").Process(
        target=run_bare, args=(options.model, server_core, theirs), daemon=True
    )
    bare.start()
    service, port = start(options.model, server_core)
    try:
        batch = ours.recv()
        bodies = requests(OnnxModel(options.model, threads=1).manifest.image_size)
        rounds = [round_(ours, service.pid, port, bodies, options) for _ in range(options.rounds)]
    finally:
        service.terminate()
        service.wait()
        bare.terminate()
        bare.join()
    print(json.dumps(summary(rounds, batch, options)))


class Turn(NamedTuple):
    """How many images were answered in how many seconds, of the clock and of the processor."""

    images: int
    clock: float
    processor: float
    latencies: tuple[float, ...] = ()

    def rates(self) -> tuple[float, float]:
        """Return the images a second, by the clock and by the processor."""
        return self.images / self.clock, self.images / self.processor


def round_(bare: Connection, service: int, port: int, bodies: list[bytes], options: argparse.Namespace) -> list[Turn]:
    """Return the turn of the bare runtime and that of the service, whose process is `service`."""
    bare.send(options.seconds)
    turns = [bare.recv(), asyncio.run(drive(service, port, bodies, options.clients, options.seconds))]
    print(
        "images/s, by clock and processor:", [[round(rate, 1) for rate in turn.rates()] for turn in turns], flush=True
    )
    return turns


def summary(rounds: list[list[Turn]], batch: int, options: argparse.Namespace) -> dict[str, object]:
    """Return the medians over the rounds, and the times of all answers together."""
    seconds = sorted(value for _, service in rounds for value in service.latencies)
    by = {}
    for place, name in enumerate(("clock", "processor")):
        rates = [[turn.rates()[place] for turn in turns] for turns in rounds]
        by[name] = {
            "bare": round(statistics.median(bare for bare, _ in rates), 1),
            "service": round(statistics.median(service for _, service in rates), 1),
            "ratios": [round(service / bare, 3) for bare, service in rates],
            "median_ratio": round(statistics.median(service / bare for bare, service in rates), 3),
        }
    return {
        "clients": options.clients,
        "bare_batch": batch,
        "images_per_second": by,
        "answers": len(seconds),
        "p50_seconds": round(seconds[len(seconds) // 2], 3),
        "p99_seconds": round(seconds[int(0.99 * len(seconds))], 3),
    }


def run_bare(path: Path, core: int, pipe: Connection) -> None:
    """Send the best batch size; then, for each number of seconds received, send the images a second."""
    os.sched_setaffinity(0, {core})
    model = OnnxModel(path, threads=1)
    size, channels = model.manifest.image_size, model.manifest.channels
    noise = np.random.default_rng(0).integers(0, 256, (max(BATCHES), channels, size, size), np.uint8)
    speed = {batch: repeat(model, noise[:batch], 1.0).rates()[1] for batch in BATCHES}
    print("bare, by batch size:", {batch: round(rate, 1) for batch, rate in speed.items()}, flush=True)
    best = max(speed, key=lambda batch: speed[batch])
    pipe.send(best)
    while True:
        pipe.send(repeat(model, noise[:best], pipe.recv()))


def repeat(model: OnnxModel, images: np.ndarray, seconds: float) -> Turn:
    """Ask the model about the same batch for some seconds."""
    model.predict(images)
    done, began, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        model.predict(images)
        done += len(images)
    return Turn(done, time.perf_counter() - began, time.process_time() - used)


def processor_seconds(process: int) -> float:
    """Return the processor time that a process and its children have used: these decode the pictures."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # also of children that have ended
    threads = Path(f"/proc/{process}/task").glob("*/children")
    return own + sum(processor_seconds(int(child)) for file in threads for child in file.read_text().split())


def start(path: Path, core: int | None = None) -> tuple[subprocess.Popen[str], int]:
    """Start the service and return it with its port, when it listens."""
    command = [sys.executable, "-m", "flatnext", "serve", str(path), "--port", "0"]
    if core is not None:
        command = ["taskset", "-c", str(core), *command, "--threads", "1"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    return service, int(service.stdout.readline().split("http://127.0.0.1:")[1].split()[0])


def first_answer(path: Path) -> dict[str, float]:
    """Return the seconds, of the clock and of the processor, from the start to the answer to a first request."""
    began = time.perf_counter()
    service, port = start(path)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", data=image(1, 32), method="POST")
    request.add_header("Content-Type", "image/png")
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200
    clock, processor = time.perf_counter() - began, processor_seconds(service.pid)
    service.terminate()
    assert service.wait() == 0
    return {"clock": round(clock, 2), "processor": round(processor, 2)}


def image(seed: int, size: int) -> bytes:
    """Return an image of noise as PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def requests(size: int) -> list[bytes]:
    """Return requests with images of noise, which take as many bytes as a PNG of that size can."""
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
    pictures = [image(seed, size) for seed in range(IMAGES)]
    return [head.format(len(picture)).encode() + picture for picture in pictures]


async def drive(service: int, port: int, bodies: list[bytes], clients: int, seconds: float) -> Turn:
    """Ask with many clients, and count the answers after the first `WARM` of each."""
    answers, latencies = 0, []
    warm, over = asyncio.Event(), asyncio.Event()

    async def client(place: int) -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not over.is_set():
            sent = time.perf_counter()
            writer.write(bodies[place % len(bodies)])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            answers += 1
            if answers == WARM * clients:
                warm.set()
            elif warm.is_set() and not over.is_set():
                latencies.append(time.perf_counter() - sent)
            place += clients
        writer.close()

    async def measure() -> Turn:
        await warm.wait()
        began, used = time.perf_counter(), processor_seconds(service)
        await asyncio.sleep(seconds)
        over.set()
        return Turn(len(latencies), time.perf_counter() - began, processor_seconds(service) - used, tuple(latencies))

    turn, *_ = await asyncio.gather(measure(), *map(client, range(clients)))
    return turn


if __name__ == "__main__":
    main()
