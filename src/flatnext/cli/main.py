"""The command `flatnext`: the table of its commands, and what its exit status says.

A command is a module of this folder with `HELP` (a line of help), `add_arguments(parser)` and `run(options)`, which
returns the exit status; `options.command_line` is what was typed, and `options.make_parser` makes the parser of all
commands. What is slow to import is imported inside `run`, so that `--help` comes at once.
"""

from __future__ import annotations

import argparse
import functools
import io
import shlex
import sys
import warnings
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import Any

from flatnext.cli import (
    bench,
    calibrate,
    compare,
    completion,
    data,
    evaluate,
    evidence,
    export,
    models,
    pack,
    predict,
    recipes,
    report,
    rerun,
    serve,
    study,
    summary,
    train,
    tune,
    verify,
    weights,
)
from flatnext.cli.parser import Parser, VersionAction
from flatnext.cpu import let_threads_sleep
from flatnext.errors import FallbackWarning, InputError
from flatnext.interruption import interruptible
from flatnext.launch import speaks
from flatnext.progress import printable

COMMANDS: dict[str, ModuleType] = {
    "study": study,
    "train": train,
    "tune": tune,
    "predict": predict,
    "calibrate": calibrate,
    "compare": compare,
    "evaluate": evaluate,
    "evidence": evidence,
    "report": report,
    "rerun": rerun,
    "verify": verify,
    "bench": bench,
    "recipes": recipes,
    "models": models,
    "summary": summary,
    "weights": weights,
    "pack": pack,
    "export": export,
    "serve": serve,
    "data": data,
    "completion": completion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    let_threads_sleep()
    if isinstance(sys.stdout, io.TextIOWrapper):  # to show a result must not fail what has been done
        is_utf8 = sys.stdout.encoding.lower() == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    options = make_parser(arguments[:1], arguments[1:]).parse_args(arguments)
    options.command_line = shlex.join(["flatnext", *arguments])
    options.make_parser = make_parser
    aloud = speaks(options.command)
    warnings.showwarning = functools.partial(_show_warning, aloud)
    try:
        with interruptible():
            return COMMANDS[options.command].run(options)
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", aloud, status=130)
    except Exception as error:
        return _failed(error, aloud)


def _failed(error: Exception, aloud: bool) -> int:
    """Say what is wrong and return the exit status; an error that only a bug explains is raised."""
    match error:
        case InputError():
            return _fail(f"error: {error}", aloud)
        case BrokenPipeError():  # the reader of the output has gone, as in `flatnext weights | head -1`
            sys.stderr.close()
            return 0
        case OSError():
            return _fail(f"error: {error.filename or 'a file'}: {error.strerror or error}", aloud)
        case MemoryError() | RuntimeError() if isinstance(error, MemoryError) or _lacks_memory(str(error)):
            return _fail("error: out of memory: lower --batch-size or --image-size, or raise --grad-accum-steps", aloud)
    raise error


def _lacks_memory(text: str) -> bool:
    """Return whether an error of torch says that memory is used up: "illegal memory access" is another."""
    return any(words in text.lower() for words in ("out of memory", "can't allocate memory", "not enough memory"))


def make_parser(names: Collection[str] = tuple(COMMANDS), typed: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of the command line; `command` of what it parses is the command's name.

    Only the commands in `names` get their flags: making all of them takes longer than to print a help. That shows the
    defaults with what is `typed` after the command.
    """
    description = "Train small image classifiers, plainly or with perturbed weights or inputs, and compare the results."
    parser = Parser(prog="flatnext", description=description, formatter_class=_wide)
    parser.add_argument("--version", action=VersionAction)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="command")
    for name, command in COMMANDS.items():
        text = command.HELP
        usage = f"flatnext {name} [options]"
        subparser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", usage=usage)
        subparser.typed = typed
        if name in names:
            command.add_arguments(subparser)
    return parser


def _wide(prog: str) -> argparse.HelpFormatter:
    """Return a formatter that has room for the longest name of a command beside its help, which argparse forgets."""
    formatter = argparse.HelpFormatter(prog)
    formatter._action_max_length = max(map(len, COMMANDS)) + 4
    return formatter


_show_by_python = warnings.showwarning


def _show_warning(aloud: bool, message: Warning | str, category: type[Warning], *place: Any) -> None:
    """Show a fallback of this package as one line, once for all processes, and another warning as Python does."""
    if not issubclass(category, FallbackWarning):
        _show_by_python(message, category, *place)
    elif aloud:
        print(f"flatnext: warning: {printable(str(message))}", file=sys.stderr)


def _fail(message: str, aloud: bool, status: int = 2) -> int:
    if aloud:
        print(f"flatnext: {printable(message)}", file=sys.stderr)
    return status
