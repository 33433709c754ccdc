"""Weights on the Hugging Face Hub: `hf://user/name`, in any place that takes a weights file."""

from __future__ import annotations

import re
from pathlib import Path

from flatnext.errors import InputError
from flatnext.versions import import_extra

FILE = "model.safetensors"


def is_address(path: Path | str) -> bool:
    """Return whether a path is an address on the Hub. `Path` makes one slash of the two."""
    return str(path).startswith("hf:")


def download(address: Path | str) -> Path:
    """Return the weights file of `hf://user/name` or `hf://user/name@revision`, in the cache of huggingface_hub.

    `InputError`: the address is none, there is no such file, or the Hub is not reached and the file not in the cache.
    """
    match = re.fullmatch(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(address))
    if match is None:
        raise InputError(f"{address} is no address on the Hub: give hf://user/name or hf://user/name@revision")
    hub = import_extra("huggingface_hub", "hub")
    try:
        return Path(hub.hf_hub_download(match[1], FILE, revision=match[2]))
    except Exception as error:  # those of its HTTP library among them
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"hf://{match[1]} cannot be fetched ({reason}): check the name, the network and HF_TOKEN"
        ) from error
