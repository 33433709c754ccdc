"""Intervals of accuracies end where accuracies do."""

import re
from dataclasses import replace
from pathlib import Path

from fake_study import write_run

from flatnext.config import recipe
from flatnext.report.content import content
from flatnext.report.markdown import markdown
from flatnext.study.advice import advice
from flatnext.study.reading import read_study


def test_no_interval_leaves_what_an_accuracy_can_be(tmp_path: Path) -> None:
    """Of two seeds the t interval of 98 and 80 % would go from -25 to 203 %, that of the difference beyond 100."""
    for name, accuracies in {"sgd": (0.98, 0.8), "amp": (0.99, 0.4)}.items():
        for seed, accuracy in enumerate(accuracies):
            write_run(tmp_path / f"{name}-{seed}", replace(recipe(name), seed=seed), epochs=2, accuracy=accuracy)
    study = read_study([tmp_path])
    shown = re.search(r"(\S+) % \(95 % interval (\S+) to (\S+), 2 seeds\)", advice(study))
    assert shown
    assert (float(shown[2]), float(shown[3])) == (0, 100)
    text = markdown(content(study))
    assert "0.00 to 100.00" in text
    assert "−100.00 to +100.00" in text
    assert "That of an accuracy is cut at 0 and 100 %" in text
    tables = "\n".join(line for line in text.splitlines() if re.match(r"\| (sgd|amp|\w+ accuracy)", line))
    ends = [
        end.replace("−", "-") for pair in re.findall(r"([+−]?\d+\.\d\d) to ([+−]?\d+\.\d\d)", tables) for end in pair
    ]
    assert len(ends) > 8
    assert max(abs(float(end)) for end in ends) == 100
