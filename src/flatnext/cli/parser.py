"""The parser of the command line: errors in one line with what was meant, no abbreviations."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from flatnext.config import ELSEWHERE, METHODS, MODELS, RECIPES, RENAMED, flag_of
from flatnext.errors import alike, choose
from flatnext.launch import is_first

# What users of other libraries try first, by what it is called here: shown where the command has that flag.
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


class Parser(argparse.ArgumentParser):
    """Reports errors in one line. Takes no abbreviations, which would break in scripts when a flag is added.

    `typed` are the arguments that it will parse: the defaults that a help shows depend on them.
    """

    typed: Sequence[str] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments. One that is unknown is an error here, so that a command names its own help."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hints = [hint for argument in unknown if (hint := self._hint(argument.partition("=")[0]))]
            self.error(": ".join([f"unrecognized arguments: {' '.join(unknown)}", *hints[:1]]))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print what is wrong in one line, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n" if is_first() else None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is unknown: {choose(value, map(str, action.choices))}")

    def _hint(self, argument: str) -> str | None:
        """Return what was probably meant by an argument that this command does not have."""
        if argument in HINTS:
            return HINTS[argument]
        flags = self._option_string_actions
        meant = SYNONYMS.get(argument)
        if meant is None or meant.split()[0] not in flags:
            meant = self._flag_like(argument) if argument.startswith("-") else self._flag_for(argument)
        return f"did you mean {meant}?" if meant else None

    def _flag_like(self, argument: str) -> str | None:
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        return " or ".join(flag for flag in known if flag.startswith(argument)) or " or ".join(
            alike(argument, known, 0.7)
        )

    def _flag_for(self, name: str) -> str | None:
        """Return the flag that takes a name, with it."""
        for flag, names in NAMES.items():
            if flag in self._option_string_actions and name in names:
                return f"{flag} {name}"
        return None


class VersionAction(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, help="print the version", **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the version and exit."""
        from flatnext.versions import version_of

        print(f"flatnext {version_of('flatnext')}")
        parser.exit(0)
