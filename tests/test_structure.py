"""How the package hangs together, read off its source."""

import ast
import graphlib
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from places import REPOSITORY
from source_tree import FIRST, ROOMS, tree

import flatnext
from flatnext.config import METHODS

PACKAGE = Path(flatnext.__file__).parent
LAYERS = (*FIRST, *ROOMS)  # a layer imports itself and those before it
WITHOUT_ARRAYS = (*FIRST, "config", "runs")
WITHOUT_TORCH = ("pictures", "serve")  # what a service has, which needs NumPy for the pictures


def module_name(path):
    parts = ["flatnext", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name, path, modules):
    """Return the full names of what a module imports, anywhere in it; of the package's, the module and not the name."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            full = {alias.name: f"{base}.{alias.name}" for alias in node.names}
            found |= {each if each in modules else base for each in full.values()}
    return found


IMPORTS = {name: imported(name, path, MODULES) for name, path in MODULES.items()}


def layer(name):
    return name.split(".")[1]


def test_every_module_belongs_to_a_layer():
    inner = {layer(name) for name in MODULES if name not in ("flatnext", "flatnext.__main__")}
    assert inner <= set(LAYERS)


def test_imports_point_to_lower_layers():
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        if name not in ("flatnext", "flatnext.__main__")
        for other in others
        if other.startswith("flatnext.") and LAYERS.index(layer(other)) > LAYERS.index(layer(name))
    ]
    assert not wrong


def test_no_module_imports_itself_through_others():
    within = {name: {other for other in others if other in MODULES} for name, others in IMPORTS.items()}
    graphlib.TopologicalSorter(within).prepare()  # raises CycleError, which names the cycle


def test_no_utils():
    assert not list(PACKAGE.rglob("util*.py"))


def test_the_map_in_the_docs_is_that_of_the_source():
    assert tree() in (REPOSITORY / "docs" / "design.md").read_text(encoding="utf-8")


def test_the_settings_import_no_arrays():
    for name in MODULES:
        forbidden = {"torch"} if name.count(".") and layer(name) in WITHOUT_TORCH else {"torch", "numpy"}
        if name.count(".") and layer(name) in (*WITHOUT_ARRAYS, *WITHOUT_TORCH):
            assert not {other.split(".")[0] for other in IMPORTS[name]} & forbidden, name


def loaded_by(*arguments):
    """Return the modules that a fresh interpreter loads."""
    command = [sys.executable, "-X", "importtime", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    "arguments",
    [("-c", "import flatnext, flatnext.config"), ("-m", "flatnext", "--help")],
    ids=["import", "help"],
)
def test_starts_without_torch(arguments):
    loaded = loaded_by(*arguments)
    assert "flatnext.config" in loaded
    assert not loaded & {"torch", "numpy", "scipy", "sklearn", "matplotlib"}


def test_a_report_is_made_without_torch():
    assert "torch" not in loaded_by("-c", "import flatnext.report.write, flatnext.study.reading, flatnext.study.plan")


def method_words(source):
    """Return the identifiers and string literals that name a method, but for torch's own `optim.SGD`."""
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    found = []
    for index, token in enumerate(tokens):
        if token.type == tokenize.NAME:
            if [before.string for before in tokens[max(index - 2, 0) : index]] != ["optim", "."]:
                found += [token.string for word in token.string.lower().split("_") if word in METHODS]
        elif token.type == tokenize.STRING and token.string.strip("rRbBuU'\"").lower() in METHODS:
            found.append(token.string)
    return found


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").glob("*.py")), ids=lambda path: path.name)
def test_training_never_names_a_method(path):
    assert not method_words(path.read_text(encoding="utf-8"))


# The checks themselves


def test_a_named_method_is_noticed():
    assert method_words("if method == 'amp': use_sgd(Amp, x.sgd)") == ["'amp'", "use_sgd", "Amp", "sgd"]
    assert method_words('optimizer = torch.optim.SGD(p)  # sgd\n"""Plain sgd."""\nstamp = "amplitude"') == []


def test_all_forms_of_import_are_read(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "import torch.nn\nfrom . import d\nfrom .d import f\nfrom ..e import g\ndef h():\n    from x import y\n"
    )
    assert imported("a.b.c", path, {"a.b.d", "a.e"}) == {"torch.nn", "a.b.d", "a.e", "x"}
    init = tmp_path / "__init__.py"
    init.write_text("from .c import f\nfrom . import d")
    assert imported("a.b", init, {"a.b.c", "a.b.d"}) == {"a.b.c", "a.b.d"}
