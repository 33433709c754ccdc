"""The metadata of a weights file: written again with more in it, the tensors to the byte as they were."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from flatnext.errors import InputError
from flatnext.files import open_regular, write_output

LENGTH = 8  # bytes of the length of the header, with which a safetensors file begins
ALIGNMENT = 8


def add_metadata(path: Path, metadata: Mapping[str, str], output: Path | None = None) -> None:
    """Write a safetensors file with `metadata` added to its own, atomically; `output` None: in its own place.

    What has the same key is replaced. `InputError`: the file is damaged, no safetensors file, or cannot be written.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot read the weights file: {error.strerror}") from error
    end = LENGTH + int.from_bytes(content[:LENGTH], "little")
    try:
        header = json.loads(content[LENGTH:end])
        header["__metadata__"] = {**header.get("__metadata__", {}), **metadata}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is not a safetensors file: give a weights file of this package") from error
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    write_output(output or path, len(text).to_bytes(LENGTH, "little") + text + content[end:])
