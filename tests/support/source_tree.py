"""The map of the source in `docs/design.md`: a line a file or folder, from their docstrings.

`python tests/support/source_tree.py` prints it; `tests/test_structure.py` holds that the page has it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "flatnext"
# What all others stand on.
FIRST = (
    *("errors", "schema", "files", "words", "versions", "interruption", "progress", "launch", "cpu"),
    "pictures",
    "listing",
)
ROOMS = (
    *("config", "runs", "device", "processes", "seeds", "ops", "data", "models", "methods", "evaluation", "evidence"),
    *("training", "bench", "study", "report", "deploy", "serve", "cli"),
)


def tree() -> str:
    """Return the map: modules and rooms in the order in which they may import each other."""
    lines = [line for name in (*FIRST, *ROOMS) for line in _entry(name)]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join(f"    {name:<{width}}{text}" for name, text in lines) + "\n"


def _entry(name: str) -> Iterator[tuple[str, str]]:
    if (PACKAGE / f"{name}.py").is_file():
        yield f"{name}.py", _summary(PACKAGE / f"{name}.py")
        return
    yield f"{name}/", _summary(PACKAGE / name / "__init__.py")
    for path in sorted((PACKAGE / name).iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            yield f"    {path.name}", _summary(path)
        elif (path / "__init__.py").is_file():
            yield f"    {path.name}/", _summary(path / "__init__.py")


def _summary(path: Path) -> str:
    """Return the first line of a module's docstring, without the full stop and what follows it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    print(tree(), end="")
