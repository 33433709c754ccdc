"""What people type who know other libraries, and what it is called here."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from flatnext.config import ELSEWHERE, METHODS, MODELS, RECIPES, RENAMED, flag_of
from flatnext.errors import alike

SYNONYMS = {
    **{f"--{name.replace('_', '-')}": flag_of(setting) for name, setting in ELSEWHERE.items()},
    "-b": "--batch-size",
    "-j": "--jobs",
    "--learning-rate": "--lr",
    "--gpu": "--device cuda",
    "--gpus": "--device cuda",
    "--cuda": "--device cuda",
    "--cpu": "--device cpu",
    "--fp16": "--precision bf16",
    "--bf16": "--precision bf16",
    "--half": "--precision bf16",
    "--data": "--data-dir (the folder) or --dataset (its name)",
    "--data-path": "--data-dir",
    "--data-root": "--data-dir",
    "--root": "--data-dir",
    "--val-split": "--validation N",
    "--arch": "--model",
    "--network": "--model",
    "--backbone": "--model",
    "--outdir": "--output",
    "--save-dir": "--output",
    "--log-dir": "--output",
    "--project": "--output",
    "--name": "--output",
    "--checkpoint": "--resume DIR",
    "--continue": "--resume DIR",
    "--pretrained": "--weights resnext29-cifar10 (or another: flatnext weights)",
    "--ckpt": "--weights",
    "--load": "--weights",
    "--initial-checkpoint": "--weights",
    "--force": "--overwrite",
    "--exist-ok": "--overwrite",
    "--format": "--to",
    "--topk": "--top",
    "--conf": "--threshold",
    "--method": "--recipes sgd amp (each with its method; sgd+sam is sgd with another)",
}
"""What users of other libraries try first, by what it is called here: shown where the command has that flag."""

HINTS = {
    "--amp": "AMP is adversarial model perturbation here: --method amp; mixed precision is --precision bf16",
    **dict.fromkeys(("--workers", "--num-workers", "--cache"), "leave it out: the data are kept on the device"),
    **dict.fromkeys(("--nc", "--classes", "--num-classes"), "leave it out: the classes are those of the data set"),
    "--patience": "leave it out: all epochs are trained, and the best by the validation images is kept as well",
    "--source": "leave it out, and give the pictures after the model: flatnext predict MODEL PICTURES",
    **dict.fromkeys(
        ("--autoattack", "--cifar10-c", "--images", "--l2", "--linf", "--measurements"),
        "it is a flag of flatnext evidence",
    ),
    **{
        f"--{no}{old}".replace("_", "-"): f"it is now called --{no}{new}".replace("_", "-")
        for old, new in RENAMED.items()
        for no in ("", "no-")
    },
}

NAMES: dict[str, Collection[str]] = {"--recipe": RECIPES, "--recipes": RECIPES, "--model": MODELS, "--method": METHODS}
"""Flags that take a name, which is often given alone."""

COMMANDS = {
    **dict.fromkeys(("val", "valid", "validate", "test", "eval", "score", "metrics"), "evaluate"),
    **dict.fromkeys(("fit", "learn", "training"), "train"),
    **dict.fromkeys(("classify", "detect", "infer", "inference", "label"), "predict"),
    **dict.fromkeys(("finetune", "fine-tune", "transfer"), "train --recipe finetune --data-dir DIR"),
    **dict.fromkeys(("sweep", "optimize", "search", "hpo"), "tune"),
    **dict.fromkeys(("convert", "onnx"), "export --to onnx"),
    **dict.fromkeys(("quantize", "int8"), "export --to onnx-int8"),
    **dict.fromkeys(("deploy", "run", "api"), "serve MODEL.onnx"),
    **dict.fromkeys(("download", "dataset", "datasets"), "data"),
    **dict.fromkeys(("benchmark", "profile", "speed"), "bench"),
    **dict.fromkeys(("resume", "continue"), "train --resume DIR"),
    **dict.fromkeys(("list", "list-models", "zoo"), "models, recipes or weights"),
    **dict.fromkeys(("diff", "versus"), "compare"),
    "help": "--help",
    "version": "--version",
    "info": "summary",
}
"""What users of other tools call a command."""

WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
CONFIGS = (".json", ".toml", ".yaml", ".yml")


def hint(unknown: Collection[str], flags: Collection[str]) -> str | None:
    """Return what was probably meant by the first of some arguments that a command with these flags does not have."""
    for argument in unknown:
        name, _, value = argument.partition("=")
        if name in HINTS:
            return HINTS[name]
        meant = _flag(name, flags) if name.startswith("-") else _value(argument, [*unknown], flags)
        if meant is None and value and not name.startswith("-"):  # data=pets
            meant = _flag(f"--{name}", flags)
        if meant:
            return f"did you mean {meant}?"
    return None


def _flag(name: str, flags: Collection[str]) -> str | None:
    meant = SYNONYMS.get(name)
    if name in flags:
        return f"{name} VALUE"
    several, first = f"{name}s", f"--first-{name.removeprefix('--')}"
    if several in flags:
        return f"{several} or {first}" if first in flags else several
    if meant is not None and meant.split()[0] in flags:
        return meant
    known = [flag for flag in flags if flag.startswith("--")]
    close = alike(name.lstrip("-"), [flag.lstrip("-") for flag in known], 0.7)
    return " or ".join([flag for flag in known if flag.startswith(name)] or [f"--{flag}" for flag in close]) or None


def _value(value: str, unknown: Collection[str], flags: Collection[str]) -> str | None:
    """Return the flag for a name or a path that is given alone, with it and others of its kind."""
    for flag, names in NAMES.items():
        if flag in flags and value in names:
            return " ".join([flag, *(other for other in unknown if other in names)])
    path = Path(value)
    try:
        kinds = {
            "--resume": (path / "config.json").is_file(),
            "--data-dir": path.is_dir(),
            "--config": path.suffix.lower() in CONFIGS and path.is_file(),
            "--weights": path.suffix.lower() in WEIGHTS and path.is_file(),
        }
    except (OSError, ValueError):  # too long to be a path
        return None
    return next((f"{flag} {shlex.quote(value)}" for flag, right in kinds.items() if right and flag in flags), None)
