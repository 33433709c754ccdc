"""What a run leaves on disk: its config, where it ran, what was measured, and how it ended."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import torch

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from flatnext.config import Config
from flatnext.data import Partition
from flatnext.device import device_name
from flatnext.errors import InputError
from flatnext.files import read_json, remove_temporaries, write_atomically, write_json
from flatnext.ops import library
from flatnext.versions import version_of

CONFIG, ENVIRONMENT, METRICS, RESULT, FAILURE = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    "failure.json",
)
LOCK = ".lock"
# All that a run writes. The config comes last: what has one is a run folder, also if deleting it is cut short.
OWN = (
    RESULT,
    FAILURE,
    METRICS,
    "evidence*.json",
    "*.safetensors",
    "state-*.pt",
    "tensorboard",
    ".*.tmp",
    ENVIRONMENT,
    CONFIG,
)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. `config.json` is there from the start, `result.json` once the run has finished."""

    path: Path

    def check(self, config: Config, *, resume: bool, overwrite: bool) -> None:
        """Raise `InputError` if a run with this config cannot be made or taken up here. Changes nothing.

        It cannot if the path is something else than a run folder, if it holds a run and neither `resume` nor
        `overwrite` says what to do with it, or if the run to resume has another config.
        """
        path = self.path
        if not path.exists() or (path.is_dir() and all(p.match(".*") for p in path.iterdir())):
            return
        if not self._is_run():
            raise InputError(f"{path} exists and is not a run folder: choose another --output")
        if overwrite:
            return
        if not resume:
            raise InputError(f"{path} holds a run: choose another --output, go on with --resume, or give --overwrite")
        different = _differences(self.config().to_json(), config.to_json())
        if different:
            raise InputError(
                f"{path} was made with {different[0]}: choose another --output, give --overwrite, "
                "or give it the same settings"
            )

    def _is_run(self) -> bool:
        """Return whether the folder's config is one of ours: other projects have a file of that name too."""
        path = self.path / CONFIG
        content = read_json(path) if path.is_file() else None
        return isinstance(content, dict) and "recipe" in content and "optimizer" in content

    def create(self, config: Config, *, overwrite: bool) -> None:
        """Make the folder with its config, unless it is there; with `overwrite`, empty it first."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._alone():  # a run that is under way needs its files, the half-written ones too
                if overwrite:
                    self._clear()
                remove_temporaries(self.path)
        except OSError as error:
            raise InputError(f"cannot make {self.path}: {error.strerror}; choose another --output") from error
        if not (self.path / CONFIG).is_file():
            write_json(self.path / CONFIG, config.to_json())
        (self.path / FAILURE).unlink(missing_ok=True)

    def _clear(self) -> None:
        """Delete the run; what somebody else has put into the folder stays."""
        for pattern in OWN:
            for path in self.path.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    @contextmanager
    def locked(self, owner: str = "") -> Iterator[None]:
        """Keep other processes from running in this folder, and note who does; `InputError` if another does."""
        with self._alone() as file:
            file.truncate(0)
            file.write(owner)
            file.flush()
            yield

    @contextmanager
    def _alone(self) -> Iterator[TextIO]:
        """Hold the lock, whose file is given; `InputError` if another process has it."""
        with open(self.path / LOCK, "a") as file:
            try:
                if fcntl is not None:  # not on Windows
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"{self.path}: another process is running this: wait for it, or stop it") from error
            yield file

    def owner(self) -> str | None:
        """Return what the last one to run in this folder gave as its name."""
        path = self.path / LOCK
        return path.read_text() if path.is_file() else None

    def config(self) -> Config:
        """Return the run's config."""
        return read_config(self.path / CONFIG)

    def data_dir(self) -> Path | None:
        """Return where the run's data lay when it last ran, if that is still there."""
        path = self.path / ENVIRONMENT
        facts = read_json(path) if path.is_file() else None
        known = facts.get("data_dir") if isinstance(facts, dict) else None
        return Path(known) if isinstance(known, str) and Path(known).is_dir() else None

    def finished(self) -> bool:
        """Return whether the run has its result."""
        return (self.path / RESULT).is_file()

    def read_result(self) -> dict[str, Any]:
        """Return what `write_result` wrote."""
        result = read_json(self.path / RESULT)
        if not isinstance(result, dict) or not {"last", "best"} <= result.keys():
            raise InputError(f"{self.path / RESULT} is damaged: delete it and resume the run, or start it anew")
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        """Write how the run ended; from then on it counts as finished."""
        write_json(self.path / RESULT, result)

    def write_failure(self, failure: dict[str, Any]) -> None:
        """Write why the run could not go on."""
        write_json(self.path / FAILURE, failure)

    def add_metrics(self, line: dict[str, Any]) -> None:
        """Add the line of a finished epoch."""
        write_atomically(self.path / METRICS, self._metrics_text() + json.dumps(line, allow_nan=False) + "\n")

    def keep_metrics(self, epochs: int) -> None:
        """Drop the lines after the first `epochs` ones: those that a resumed run will measure again."""
        lines = self._metrics_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["epoch"] <= epochs]
        if len(lines) > len(kept):
            write_atomically(self.path / METRICS, "".join(kept))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of the finished epochs."""
        return [json.loads(line) for line in self._metrics_text().splitlines()]

    def _metrics_text(self) -> str:
        path = self.path / METRICS
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            if all("epoch" in json.loads(line) for line in text.splitlines()):
                return text
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged: start the run anew with --overwrite") from error
        raise InputError(f"{path} is damaged: start the run anew with --overwrite")

    def add_session(self, facts: dict[str, Any], command: str, from_step: int) -> None:
        """Write where the run runs, and add this start of it, with what may change between starts, to its sessions."""
        path = self.path / ENVIRONMENT
        before = read_json(path) if path.is_file() else {"sessions": []}
        if not isinstance(before, dict) or not isinstance(before.get("sessions"), list):
            raise InputError(f"{path} is damaged: delete it to go on without the earlier sessions")
        session = {
            "command": command,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "from_step": from_step,
            **{name: facts[name] for name in ("device_name", "torch", "threads", "processes")},
        }
        write_json(path, {**facts, "sessions": [*before["sessions"], session]})


def read_config(path: Path) -> Config:
    """Return the config in a run's `config.json`. Raises `InputError` naming the file if it is no config."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: give a run folder, or the config.json of one")
    try:
        return Config.from_json(read_json(path))
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error


def environment(
    device: torch.device, precision: str, parameters: int, partition: Partition, processes: int = 1
) -> dict[str, Any]:
    """Return what a figure needs beside it to be believed: versions, device, and how many images there were."""
    return {
        "flatnext": version_of("flatnext"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version_of("numpy"),
        "platform": platform.platform(),
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "precision": precision,
        "kernels": device.type == "cpu" and library() is not None,
        "parameters": parameters,
        "train_images": len(partition.train),
        "validation_images": len(partition.validation) if partition.validation is not None else 0,
        "test_images": len(partition.test),
        "classes": list(partition.classes),
    }


def _differences(there: Any, wanted: Any, name: str = "") -> list[str]:
    """Return a phrase for each setting in which two configs, as JSON, differ."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        keys = [*there, *(key for key in wanted if key not in there)]
        return [
            phrase
            for key in keys
            for phrase in _differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if there == wanted else [f"{name} = {there}, not {wanted}"]
