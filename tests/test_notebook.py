"""The notebook runs from top to bottom; with all of its epochs (slow) its networks learn."""

import json
from typing import Any

import pytest
from places import REPOSITORY


@pytest.mark.parametrize("epochs", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_notebook_runs(epochs: int) -> None:
    notebook = json.loads((REPOSITORY / "docs" / "own-loop.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    names: dict[str, Any] = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("epochs=4", f"epochs={epochs}")
            if epochs == 1:
                source = source.replace('dataset="digits")', 'dataset="digits", train_images=600)')
            exec(compile(source, f"cell {number}", "exec"), names)
    if epochs == 4:
        assert min(min(values) for values in names["results"].values()) > 0.9
    assert names["comparison"].n == 3
