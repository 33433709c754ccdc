"""The names of settings: the section where each stands, and which one is meant by a name that is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from flatnext.config.data import Data
from flatnext.config.method import METHODS
from flatnext.config.model import Model
from flatnext.config.optimizer import Optimizer, Schedule
from flatnext.config.setting import described
from flatnext.config.start import Start
from flatnext.errors import InputError, alike, choose
from flatnext.words import listing

SECTIONS: dict[str, Any] = {
    "data": Data,
    "model": Model,
    "start": Start,
    "optimizer": Optimizer,
    "schedule": Schedule,
}
"""The sections of a config whose settings are always the same; those of `method` depend on the method."""

RENAMED = {
    "accumulate": "grad_accum_steps",
    "graph": "cuda_graph",
    "interval": "perturb_every",
    "per_rank": "m_sharpness",
}
"""Settings by the names that they had in version 0.1.0."""

ELSEWHERE = {
    "batch": "batch_size",
    "bs": "batch_size",
    "base_lr": "learning_rate",
    "lr0": "learning_rate",
    "wd": "weight_decay",
    "scheduler": "schedule",
    "sched": "schedule",
    "lr_schedule": "schedule",
    "lr_scheduler": "schedule",
    "cos_lr": "schedule",
    "opt": "optimizer",
    "optim": "optimizer",
    "img_size": "image_size",
    "imgsz": "image_size",
    "input_size": "image_size",
    "resolution": "image_size",
    "size": "image_size",
    "accumulation_steps": "grad_accum_steps",
    "accum_iter": "grad_accum_steps",
    "clip_grad": "clip_norm",
    "smoothing": "label_smoothing",
    "hflip": "flip",
    "fliplr": "flip",
    "max_epochs": "epochs",
    "num_epochs": "epochs",
    "n_epochs": "epochs",
    "model_ema": "ema",
    "model_ema_decay": "ema",
    "warmup": "warmup_epochs",
    "pretrained": "weights",
    "subset": "train_images",
    "random_seed": "seed",
    "random_state": "seed",
    "val_split": "validation",
    "aa": "augment",
    "auto_augment": "augment",
}
"""Settings by the names that other libraries have for them."""


def remedy(name: object, known: Iterable[str], at: str | None = None, top: Iterable[str] = ()) -> str:
    """Return what to give for a name that is no setting's, or of one that stands elsewhere.

    `known` are the names that are right here. `at` is the section of a config in a file, "" for its top, where the
    names `top` stand; None where settings have no sections. The name may be that of a flag (`lr`) or in another library
    (`batch`), or mistyped.
    """
    known = list(known)
    word = str(name).rpartition(".")[2].replace("-", "_")
    names = {*known, *top, *(setting for _, kind in _kinds() for setting in _names(kind))}
    meant = word if word in names else _flags().get(word) or RENAMED.get(word) or ELSEWHERE.get(word)
    owners = [method for method, kind in METHODS.items() if meant in _names(kind)]
    if owners and meant not in known and at in (None, "method"):
        return f"it belongs to method {listing(owners)}"
    if meant is not None:
        return f"it is called {meant}" if meant in known else f"it is {_place(meant)}"
    elsewhere = [] if at is None else [_place(close) for close in alike(name, sorted(names))]
    if elsewhere and not alike(name, known):
        return f"did you mean {' or '.join(elsewhere)}?"
    return choose(name, known)


def require_names(content: Mapping[str, Any], kind: Any, config: Any, at: str = "") -> None:
    """Raise `InputError` for a name that is no setting of the dataclass `kind`: a `config`, or its section `at`."""
    known, top = ([item.name for item in fields(each)] for each in (kind, config))
    tag = ("name",) if at == "method" else ()
    for name in content:
        if name not in (*known, *tag):
            where = f"config.{at} has no setting {name!r}" if at else f"config has no setting {name!r} at its top"
            raise InputError(f"{where}: {remedy(name, known, at, top)}")


def flag_of(name: str) -> str:
    """Return what a setting is called on the command line: `--lr`, `--weight-decay`."""
    return "--" + ({setting: flag for flag, setting in _flags().items()}.get(name) or name).replace("_", "-")


def _place(name: str) -> str:
    """Return a setting with its section: `optimizer.learning_rate, in the section optimizer`."""
    section = next((section for section, kind in _kinds() if name in _names(kind)), None)
    return f"{section}.{name}, in the section {section}" if section else f"{name}, at the top of the config"


def _kinds() -> Iterator[tuple[str, Any]]:
    yield from SECTIONS.items()
    yield from (("method", kind) for kind in METHODS.values())


def _names(kind: Any) -> set[str]:
    return {item.name for item in fields(kind)}


def _flags() -> dict[str, str]:
    """Return the settings whose flag is another name, by that."""
    return {info.flag: item.name for _, kind in _kinds() for item, info in described(kind) if info.flag}
