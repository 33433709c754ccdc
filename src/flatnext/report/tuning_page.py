"""A search for settings as an HTML page: the best settings, the value of each trial, and what each setting did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flatnext.config import recipe_name
from flatnext.config.setting import show
from flatnext.report.blocks import Code, Figure, Key, Panel, Report, Section, Table, Text
from flatnext.report.drawing import literal, panel
from flatnext.report.page import page
from flatnext.report.svg import QUIET, SERIES
from flatnext.study.search_space import Varied
from flatnext.study.statistics import points
from flatnext.study.trials import Trial
from flatnext.study.tuning import Found, Search, described
from flatnext.words import DASH, counted, listing

BEST, OTHER = SERIES[0], SERIES[1]

CAUTION = (
    "The highest of several values is higher than what its settings reach again: some of it is luck. A study with "
    "seeds that have chosen nothing says what they reach, on the test set."
)


def header(found: Found) -> tuple[str, ...]:
    """Return the names of the columns of the table of trials."""
    search = found.search
    names = (item.name for item in search.space.varied)
    return ("trial", *names, *(f"seed {seed}" for seed in search.seeds), f"{found.balanced}mean")


def row(search: Search, trial: Trial) -> tuple[str, ...]:
    """Return the cells of a trial; accuracies are in per cent."""
    settings = (
        show(trial.settings[item.name]) if item.name in trial.settings else DASH for item in search.space.varied
    )
    there = [points(accuracy) for accuracy in trial.accuracies]
    missing = [DASH] * (len(search.seeds) - len(there))
    return (str(trial.number), *settings, *there, *missing, _end(search, trial))


def _end(search: Search, trial: Trial) -> str:
    """Return the mean of a finished trial; of another how it ended, and where it was pruned."""
    if trial.state != "pruned":
        return points(trial.mean) if trial.state == "finished" else trial.state
    if trial.accuracies:
        return f"pruned after seed {search.seeds[len(trial.accuracies) - 1]}"
    epoch, accuracy = trial.curve[-1]
    return f"pruned after epoch {epoch} ({points(accuracy)})"


def others(found: Found) -> str:
    """Return a sentence on the trials that have no value; empty where there are none."""
    counts = {state: sum(trial.state == state for trial in found.trials) for state in ("pruned", "failed", "running")}
    texts = [f"{count} {state}" for state, count in counts.items() if count]
    return f"Beside {counted(len(found.ranked), 'finished trial')}: {listing(texts)}." if texts else ""


def tuning_page(found: Found, commands: Sequence[str]) -> str:
    """Return the HTML page; `commands` are what to type to train and to study the best settings, if there are some."""
    search = found.search
    config = found.config() if found.ranked else search.space.config
    figures, next_steps = [], []
    if found.ranked:
        figures = [Section("figures", "Figures", (_history(found), *_curves(found), _settings(found)))]
        texts = (Text("Train the best settings, or study them:"), Code(tuple(commands)))
        next_steps = [Section("next", "Next", texts)]
    failed = [trial for trial in found.trials if trial.state == "failed"]
    report = Report(
        title=f"Search for settings of {recipe_name(config)}",
        advice=_advice(found),
        warnings=tuple(f"Trial {trial.number} failed: {trial.failure}" for trial in failed[:3] if trial.failure),
        verdict=tuple(filter(None, (CAUTION if found.ranked else "", others(found)))),
        remarks=(
            f"Data set {config.data.dataset}, {counted(config.epochs, 'epoch')}. The test set was not evaluated.",
        ),
        keys=tuple(
            Key(f"trial {trial.number}", f"{points(trial.mean)} %", described(trial.settings), place)
            for place, trial in enumerate(found.ranked[:3])
        ),
        sections=(*figures, Section("trials", "Trials", (_table(found),)), *next_steps),
        kicker="FlatNeXt search for settings",
    )
    return page(report)


def _advice(found: Found) -> str:
    trials = counted(len(found.trials), "trial")
    if not found.ranked:
        return f"None of {trials} has finished{found.reason}."
    best, seeds = found.ranked[0], listing(map(str, found.search.seeds))
    mean = f"a mean {found.measure} of {points(best.mean)} % over seeds {seeds}"
    return f"Best of {trials}: {described(best.settings)}, with {mean}."


def _table(found: Found) -> Table:
    measured = [trial for trial in found.trials if trial.state != "finished"]
    rows = tuple(row(found.search, trial) for trial in (*found.ranked, *measured))
    caption = f"{found.measure.capitalize()} after the last epoch, in per cent, the best trial first."
    return Table(caption, header(found), rows, bold_last=True)


def _history(found: Found) -> Figure:
    ended = sorted(found.ranked, key=lambda trial: trial.number)
    numbers, means = [trial.number for trial in ended], [100 * trial.mean for trial in ended]
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    caption = "Value of each trial, in the order in which they began; of a pruned one, that when it ended."

    def draw(axes: Axes) -> None:
        axes.plot(numbers, means, "o", color=OTHER, markersize=4, label="finished")
        if pruned:
            values = [100 * (trial.mean if trial.accuracies else trial.curve[-1][1]) for trial in pruned]
            axes.plot([trial.number for trial in pruned], values, "x", color=QUIET, markersize=4, label="pruned")
        best = [max(means[: place + 1]) for place in range(len(means))]
        axes.step(numbers, best, where="post", color=BEST, label="best so far")
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="best")

    alt = f"Mean {found.measure} of each trial, and the best so far"
    drawn = panel("history", alt, f"{found.measure.capitalize()} (%)", draw)
    return Figure(caption, (drawn,))


def _curves(found: Found) -> tuple[Figure, ...]:
    """Return the figure of the first seed's epochs, by which trials are pruned; nothing where there are too few."""
    curves = [trial for trial in found.trials if len(trial.curve) > 1 or trial.state == "pruned"]
    if not any(len(trial.curve) > 1 for trial in curves):
        return ()
    best = found.ranked[0]

    def draw(axes: Axes) -> None:
        for trial in sorted(curves, key=lambda trial: (trial is best, trial.state == "pruned")):
            epochs, values = [epoch for epoch, _ in trial.curve], [100 * value for _, value in trial.curve]
            colour = BEST if trial is best else QUIET if trial.state == "pruned" else OTHER
            axes.plot(epochs, values, color=colour, linewidth=1.8 if trial is best else 0.9)
            if trial.state == "pruned" and epochs:
                axes.plot(epochs[-1:], values[-1:], "x", color=QUIET, markersize=5)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for label, colour in (("best", BEST), ("others", OTHER), ("pruned", QUIET)):
            axes.plot([], [], color=colour, label=label)
        axes.legend(loc="best")

    seed = found.search.seeds[0]
    drawn = panel(
        "curves", f"{found.measure.capitalize()} of seed {seed} by epoch", f"{found.measure.capitalize()} (%)", draw
    )
    return (Figure(f"Epochs of seed {seed}, by which trials are pruned: a cross where one ended.", (drawn,)),)


def _settings(found: Found) -> Figure:
    panels = tuple(_setting(found, item) for item in found.search.space.varied)
    return Figure(
        f"{found.measure.capitalize()} against each setting, all others varying too; a ring marks the best.", panels
    )


def _setting(found: Found, item: Varied) -> Panel:
    def place(trial: Trial) -> Any:
        value = trial.settings[item.name]
        return item.choices.index(value) if item.choices else value

    def draw(axes: Axes) -> None:
        means = [100 * trial.mean for trial in found.ranked]
        places = [place(trial) for trial in found.ranked]
        axes.plot(places, means, "o", color=OTHER, markersize=4)
        axes.plot(places[:1], means[:1], "o", color=BEST, markersize=9, fillstyle="none", markeredgewidth=1.6)
        axes.set_xlabel(item.name)
        _scale(item)(axes)

    alt = f"Mean {found.measure} of the finished trials against {item.name}"
    return panel(f"setting-{item.name.replace('_', '-')}", alt, f"{found.measure.capitalize()} (%)", draw)


def _scale(item: Varied) -> Callable[[Axes], object]:
    """Return what gives the axis of a setting its scale: names of choices, a logarithm, or whole numbers."""
    if item.choices:
        names = [literal(show(choice)) for choice in item.choices]
        return lambda axes: axes.set_xticks(range(len(names)), names)
    if item.scale == "log":
        return lambda axes: axes.set_xscale("log")
    return lambda axes: axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=item.whole))
