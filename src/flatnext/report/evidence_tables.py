"""Tables of measures: each recipe's mean and spread, and the paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from flatnext.durations import duration
from flatnext.report.blocks import Block, Details, Table, Text
from flatnext.report.numbers import DASH, decimal, decimals, listing, mean_sd, moment, probability
from flatnext.runs.evidence import PARTS
from flatnext.study import measures
from flatnext.study.rows import Row, rows
from flatnext.study.statistics import Comparison
from flatnext.study.table import Study, setting_text

Column = tuple[str, Callable[[Row], str]]
"""A further column: its header, and what it says of a row."""


FITTED = 0.0101, 99.0
"""A temperature outside is an end of the range that the fit looks in, 0.01 to 100, and no fit."""


def tables(study: Study) -> list[Block]:
    """Return the tables of all that was measured after training, each folded away."""
    return [
        *_flatness(study),
        *_folded(study, "Calibration", "measure", rows(study, measures.calibration), notes=_scaling(study)),
        *_corruptions(study),
        *_attacks(study),
        *_folded(study, "Other test sets: accuracy", "test set", rows(study, measures.test_sets)),
        _made(study),
    ]


def _flatness(study: Study) -> list[Block]:
    found = rows(study, measures.flatness)
    rises = [row for row in found if row.measure.kind.startswith("rise.")]
    others = [row for row in found if row not in rises]
    blocks = [*table(study, "Sharpness and Hessian", "measure", others)] if others else []
    blocks += table(study, "Rise of the loss along directions", "measure", rises) if rises else ()
    return [Details("Sharpness and Hessian", (*blocks, *_hessian(study)))] if blocks else []


def _hessian(study: Study) -> list[Block]:
    """Return how exact the figures of the Hessian are."""
    parts = [(run.name, run.evidence.flatness) for run in study.runs if run.evidence and run.evidence.flatness]
    traces = [part.result.trace for _, part in parts if part.result.trace]
    errors = [trace.standard_error for trace in traces if trace.standard_error is not None]
    blocks: list[Block] = []
    if errors:
        probes = listing(sorted({str(trace.probes) for trace in traces}))
        error = median(errors)
        text = f"{decimal(error, decimals([error]))} (median over runs)"
        blocks.append(Text(f"The standard error of the trace, from {probes} random vectors, is {text}."))
    held = [(name, part.result.eigenvalues) for name, part in parts if part.result.eigenvalues]
    if loose := [(name, values) for name, values in held if not values.converged]:
        text = f"The largest eigenvalue had not converged in {listing(name for name, _ in loose)}"
        residuals = [values.residuals[0] for _, values in loose if values.residuals]
        if finite := [each for each in residuals if each is not None]:
            text += f": residual {decimal(max(finite), decimals(finite))} at most, as far off it may be"
        blocks.append(Text(f"{text}."))
    return blocks


def _made(study: Study) -> Details:
    """Return how each part was measured: settings, device, versions, time and commands."""
    lines = []
    for name in PARTS:
        parts = [part for run in study.runs if run.evidence and (part := getattr(run.evidence, name)) is not None]
        if not parts:
            continue
        made = [part.made for part in parts]
        settings = _each(_settings(part.settings) for part in parts)
        machines = _each(
            f"{each.device}, {each.threads} thread{'s' if each.threads > 1 else ''}, torch {each.torch}"
            for each in made
        )
        dates = sorted(moment(each.date) for each in made)
        when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
        seconds = duration(sum(each.seconds for each in made))
        time = f"{seconds} for {len(parts)} run{'s' if len(parts) > 1 else ''}"
        commands = _each(each.command for each in made)
        lines.append((name.replace("_", " "), settings, machines, when, time, commands))
    header = ("part", "settings", "machine", "date", "time", "command")
    caption = "How it was measured, part by part"
    return Details(caption, (Table(caption, header, tuple(lines), numeric=False, stacked=True),))


def _settings(settings: Mapping[str, Any]) -> str:
    """Return the settings that say anything: no empty list, and nothing that was not given."""
    said = {name: value for name, value in settings.items() if value not in (None, [], {})}
    return ", ".join(f"{name} {setting_text(value)}" for name, value in said.items())


def _each(texts: Iterable[str]) -> str:
    """Return the texts, each once; of many the first."""
    found = [text for text in dict.fromkeys(texts) if text]
    return found[0] + (f" (and {len(found) - 1} others)" if len(found) > 1 else "") if found else DASH


def _folded(
    study: Study,
    title: str,
    corner: str,
    found: Sequence[Row],
    extra: Sequence[Column] = (),
    notes: Sequence[Block] = (),
) -> list[Block]:
    return [Details(title, (*table(study, title, corner, found, extra), *notes))] if found else []


def table(
    study: Study, title: str, corner: str, found: Sequence[Row], extra: Sequence[Column] = ()
) -> tuple[Block, ...]:
    """Return measures by recipe, and below what was not compared and why.

    A unit, a number of images or of seeds that is the same in all rows is said in the caption.
    """
    columns = _columns()
    varying = [(name, cell) for name, cell in columns if len({cell(row) for row in found}) > 1]
    same = {name: cell(found[0]) for name, cell in columns if (name, cell) not in varying}
    header = [corner, *(name for name, _ in varying), *(group.label for group in study.groups)]
    for contrast in study.contrasts:
        header += [f"{contrast.group.label} − {contrast.baseline.label}", "95 % interval", "p"]
    header += [name for name, _ in extra]
    lines = tuple((*_line(study, row, varying), *(cell(row) for _, cell in extra)) for row in found)
    caption = f"{title}{_caption(same)}"
    if study.contrasts:
        caption += "; paired differences, p of the t-test, not corrected"
    return (Table(caption, tuple(header), lines), *_not_compared(study, found))


def _not_compared(study: Study, found: Sequence[Row]) -> list[Text]:
    """Say which rows were not compared with the baseline, for any recipe or for some, and why."""
    phrases: dict[str, list[str]] = {"Not compared": [], "Not compared for some recipes": []}
    for row in found:
        if problem := row.problem():
            some = study.contrasts and not all(row.problem_between(study, contrast) for contrast in study.contrasts)
            phrases["Not compared for some recipes" if some else "Not compared"].append(
                f"{row.measure.name} ({problem})"
            )
    return [Text(f"{kind}: {'; '.join(names)}.") for kind, names in phrases.items() if names]


def _columns() -> list[Column]:
    """Return what is the same in all rows of most tables."""

    def seeds(row: Row) -> str:
        numbers = [str(len(values)) for values in row.values]
        return numbers[0] if len(set(numbers)) == 1 else ", ".join(numbers)

    return [
        ("unit", lambda row: row.measure.unit),
        ("images", lambda row: " or ".join(f"{count:,}" for count in row.images()) or DASH),
        ("n", seeds),
    ]


def _caption(same: Mapping[str, str]) -> str:
    """Return what goes for all rows."""
    unit = f" ({same['unit']})" if same.get("unit") else ""
    images = f" on {same['images']} images" if "images" in same else ""
    seeds = same.get("n", "n")
    return f"{unit}{images}: mean ± standard deviation over {seeds} {'seed' if seeds == '1' else 'seeds'}"


def _line(study: Study, row: Row, varying: Sequence[Column]) -> tuple[str, ...]:
    cells = [row.measure.name, *(cell(row) for _, cell in varying)]
    cells += [mean(row, place) for place in range(len(study.groups))]
    for contrast in study.contrasts:
        compared = row.compare(study, contrast)
        cells += [difference(row, compared), interval(row, compared), probability(compared.p if compared else None)]
    return tuple(cells)


def unit(row: Row) -> str:
    """Return ` (%)`."""
    return f" ({row.measure.unit})" if row.measure.unit else ""


def digits(row: Row) -> int:
    """Return the decimals of a row: the measure's own, or as many as show three digits of the largest mean."""
    if row.measure.digits is not None:
        return row.measure.digits
    return decimals(row.measure.scale * found.mean for n in range(len(row.values)) if (found := row.estimate(n)))


def mean(row: Row, number: int) -> str:
    """Return mean ± standard deviation of a group, in the measure's unit."""
    found = row.estimate(number)
    return mean_sd(found, row.measure.scale, digits(row)) if found else DASH


def difference(row: Row, found: Comparison | None) -> str:
    """Return the mean difference with its sign, in the measure's unit (of per cent: points)."""
    return decimal(row.measure.scale * found.difference.mean, digits(row), sign=True) if found else DASH


def interval(row: Row, found: Comparison | None) -> str:
    """Return the 95 % interval of a difference."""
    if found is None or found.difference.low is None or found.difference.high is None:
        return DASH
    ends = (found.difference.low, found.difference.high)
    return " to ".join(decimal(row.measure.scale * end, digits(row), sign=True) for end in ends)


def _scaling(study: Study) -> tuple[Block, ...]:
    parts = [(run.name, run.evidence.calibration) for run in study.runs if run.evidence and run.evidence.calibration]
    scaled = [(name, part.result.scaled) for name, part in parts if part.result.scaled]
    counts = sorted({each.validation_count for _, each in scaled})
    if not counts:
        return (Text("Without a validation split there is no temperature to fit."),)
    images = listing(f"{count:,}" for count in counts)
    text = Text(f"The temperature is that of the lowest NLL on {images} validation images; above 1: too sure.")
    low, high = FITTED
    unfit = [name for name, each in scaled if not low < each.temperature < high]
    if not unfit:
        return (text,)
    its = "its figures" if len(unfit) == 1 else "their figures"
    warning = f"The validation images do not fix the temperature of {listing(unfit)}: {its} after scaling mean nothing."
    return (text, Text(warning))


def _corruptions(study: Study) -> list[Block]:
    mean_rows = rows(study, measures.corruptions)
    if not mean_rows:
        return []
    blocks = [*table(study, "Mean over corruptions and severities", "measure", mean_rows)]
    for family, corner in ((measures.by_severity, "severity"), (measures.by_corruption, "corruption")):
        for source in ("generated", "published"):
            found = [row for row in rows(study, family) if row.measure.kind.endswith(source)]
            over = "corruptions" if corner == "severity" else "severities"
            if found:
                blocks += table(study, f"Accuracy by {corner}, {source} images, mean over the {over}", corner, found)
    return [Details("Corruptions", tuple(blocks))]


def _attacks(study: Study) -> list[Block]:
    found = rows(study, measures.attacks)
    seconds = _seconds(study)
    extra = [("seconds", lambda row: seconds.get(row.measure.name, DASH))]
    return _folded(study, "Attacks: accuracy under attack", "attack", found, extra, _checks(study))


def _seconds(study: Study) -> dict[str, str]:
    """Return by attack the seconds that it took, mean over all runs."""
    took: dict[str, list[float]] = {}
    for run in study.runs:
        part = run.evidence.attacks if run.evidence else None
        for attack in part.result.attacks if part else ():
            took.setdefault(measures.attack_name(attack), []).append(attack.seconds)
    return {name: decimal(sum(each) / len(each), 1) for name, each in took.items()}


def _checks(study: Study) -> tuple[Block, ...]:
    """Return a line where all sanity checks passed, else those that failed with what they looked at."""
    parts = [(run.name, run.evidence.attacks) for run in study.runs if run.evidence and run.evidence.attacks]
    checks = [(name, check) for name, part in parts for check in part.result.checks]
    if not checks:
        return (Text("No sanity checks were made: whether the attacks are weak is not known."),)
    failed = [(name, check) for name, check in checks if not check.passed]
    if not failed:
        return (Text(f"All {len(checks)} sanity checks of the attacks passed, over {len(parts)} runs."),)
    lines = tuple(
        (check.name, name, ", ".join(f"{k} {DASH if v is None else f'{v:g}'}" for k, v in check.values.items()))
        for name, check in failed
    )
    caption = f"{len(failed)} of {len(checks)} sanity checks failed: the accuracies under attack may be too high"
    return (Table(caption, ("check", "run", "found"), lines, numeric=False),)
