"""Commands in processes of their own that need not import torch: children of one that has.

`python fork_server.py` is that one. A request on its input is a JSON object on a line: the words of a command, a file
for its output, and code to run before. It answers with the child's process, and with its status when it has ended.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PRELOADED = (
    "flatnext.cli",
    "flatnext.training",
    "flatnext.evaluation",
    "flatnext.study.runner",
    "flatnext.report.write",
    "flatnext.deploy.pack",
    "flatnext.deploy.export",
    "huggingface_hub.hub_mixin",
    "flatnext.evidence.gather",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.compat.proto.summary_pb2",
    "tensorboard.summary.writer.record_writer",
    "rich.console",
    "torch._dynamo",
)


class Child:
    """A command that runs. Its standard output and error are in `log`."""

    def __init__(self, server: ForkServer, number: int, log: Path) -> None:
        self.server, self.number, self.log = server, number, log
        self.pid = 0
        self.status: int | None = None

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.status is None:
            self.server.look(0.0)
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since, which the server has not said yet
                os.kill(self.pid, number)

    def wait(self, seconds: float = 60.0) -> int | None:
        """Return the status, that of a signal negative; None if the process has not ended by then."""
        until = time.monotonic() + seconds
        while self.status is None and (left := until - time.monotonic()) > 0:
            self.server.look(left)
        return self.status

    def work(self, seconds: float) -> int | None:
        """Let it compute for so many seconds, which are more on a busy machine; return the status if it has ended."""
        while self.status is None and self._computed() < seconds:
            self.server.look(0.002)
        return self.status

    def _computed(self) -> float:
        """Return the seconds of computing so far (Linux), a whole number of hundredths."""
        try:
            facts = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return math.inf
        return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")

    def output(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text() if self.log.exists() else ""


class ForkServer:
    """The process that has imported everything, used from a test. Its children die with it."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})},
        )
        self.children: dict[int, Child] = {}
        self.has_faults = False
        self.buffer = b""

    def start(self, *words: object, log: Path, code: str = "", cwd: Path | None = None) -> Child:
        """Run `flatnext` with these words in a new process, after `code`."""
        child = Child(self, len(self.children), log)
        self.children[child.number] = child
        request = {"words": list(map(str, words)), "log": str(log), "code": code, "number": child.number}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**request, "cwd": str(cwd or log.parent)}).encode() + b"\n")
        self.process.stdin.flush()
        while not child.pid:
            self.look(60.0)
        return child

    def run(self, *words: object, log: Path, code: str = "", cwd: Path | None = None) -> tuple[int | None, str]:
        """Run a command to its end; return its status and what it printed."""
        child = self.start(*words, log=log, code=code, cwd=cwd)
        return child.wait(), child.output()

    def look(self, seconds: float) -> None:
        """Take in what the process has said, waiting so long for something."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        assert data, "the fork server has ended"
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            child = self.children[message["number"]]
            child.pid, child.status = message.get("pid", child.pid), message.get("status", child.status)

    def close(self) -> None:
        """End the process and its children."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def serve(requests: int, answers: int) -> None:
    """Start what is asked for until the input ends, and say what has ended."""
    running: dict[int, int] = {}
    buffer = b""

    def say(**message: Any) -> None:
        os.write(answers, json.dumps(message).encode() + b"\n")

    while True:
        if select.select([requests], [], [], 0.005 if running else None)[0]:
            data = os.read(requests, 1 << 16)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if not (process := os.fork()):
                    os.close(answers)
                    _child(request)
                running[process] = request["number"]
                say(number=request["number"], pid=process)
        while running:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            say(number=running.pop(process), status=os.waitstatus_to_exitcode(status))
    for process in running:
        os.kill(process, signal.SIGKILL)


def _child(request: dict[str, Any]) -> None:
    """Run the command as `flatnext` would, and end."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell starts it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(request["cwd"])
        log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        exec(request["code"], {})  # tests alone ask for it
        status = _run(request["words"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(words: Sequence[str]) -> int:
    from flatnext.cli import main

    try:
        return main(words)
    except SystemExit as end:  # of the parser
        return int(end.code or 0)


if __name__ == "__main__":
    import gc
    import importlib

    import torch
    from PIL import Image

    torch.set_num_threads(1)
    Image.init()
    for name in PRELOADED:
        importlib.import_module(name)
    from flatnext import ops

    ops.library()  # a child that is killed while it compiles them leaves the compiler behind
    # What every child would do again, and what no test here is about: whether the model fits the images.
    importlib.import_module("flatnext.training.run_state").check_fit = lambda *_: None
    gc.collect()
    gc.freeze()  # so that a child's collector does not touch all that it shares with this process
    sys.argv = sys.orig_argv = ["flatnext"]
    out = os.dup(1)
    os.dup2(2, 1)
    serve(0, out)
