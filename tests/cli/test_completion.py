"""Completion in a real bash, from the script that `flatnext completion bash` prints."""

import argparse
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flatnext.cli import main
from flatnext.cli.main import COMMANDS, make_parser

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "flatnext"
    with file.open("w") as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", output)
        assert main(["completion", "bash"]) == 0
    return file


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["tra"], {"train"}),
        ([""], {*COMMANDS, "--help", "--version", "-h"}),
        (["train", "--epo"], {"--epochs"}),
        (["train", "--method", "am"], {"amp"}),
        (["study", "--recipes", "quick-"], {"quick-amp"}),
        (["train", "--model", "resnext1"], {"resnext11", "resnext17-32x5d"}),
    ],
)
def test_bash_completes(script: Path, words: list[str], completions: set[str]) -> None:
    line = ["flatnext", *words]
    # The path is empty of Python: nothing is started.
    code = f"""
        source {script}
        PATH=
        COMP_WORDS=({" ".join(f"'{word}'" for word in line)}); COMP_CWORD={len(words)}; COMPREPLY=()
        _shtab_flatnext
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert found == completions if words != [""] else found <= completions and set(COMMANDS) <= found


def test_bash_completes_every_flag_of_every_command(script: Path) -> None:
    actions = make_parser()._actions
    commands = next(action for action in actions if isinstance(action, argparse._SubParsersAction)).choices
    assert set(commands) == set(COMMANDS)
    text = script.read_text()
    for name, parser in commands.items():
        options = re.search(rf"^_shtab_flatnext_{name}_option_strings=\((.*)\)$", text, re.MULTILINE)
        assert options, name
        shown = (action.option_strings for action in parser._actions if action.help != argparse.SUPPRESS)
        assert set(options[1].split()) == set(itertools.chain.from_iterable(shown)), name


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_the_other_shells_have_every_command_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", text), name
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_files_are_completed_where_a_flag_takes_one(script: Path) -> None:
    assert "_flatnext_train___resume_COMPGEN=_shtab_compgen_files" in script.read_text()
