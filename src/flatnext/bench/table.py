"""A benchmark's result as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flatnext.words import counted


def format_bench(result: dict[str, Any]) -> str:
    """Return the result of `run_bench` as text, a table for each part."""
    write = {"training": _training, "inference": _inference, "memory": _memory}
    write |= {"startup": _startup, "convolution": _convolution}
    sections = [_head(result), *(write[name](part, result["precision"]) for name, part in result["parts"].items())]
    return "\n\n".join(sections)


def markdown(head: str, rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table with the head's columns, which `|` separates; all but the first are aligned right."""
    columns = head.split(" | ")
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _head(result: dict[str, Any]) -> str:
    plan = result["plan"]
    before, after = (f"{value:.1f}" if value is not None else "unknown" for value in result["load"])
    return (
        f"{result['device_name']}, {counted(result['threads'], 'thread')}, torch {result['torch']}, "
        f"Python {result['python']}, {result['precision']}, batch {plan['batch_size']} at "
        f"{plan['image_size']}x{plan['image_size']}, {result['date']}, load {before} before and {after} after"
    )


def _training(part: dict[str, Any], precision: str) -> str:
    head = (
        "training | images/s | middle half | n | times the baseline's | middle half | step / SGD's | middle half | "
        "share of bound | 50,000 images, estimated"
    )
    rows = [
        (
            *(name, *_middle(row["images_per_second"], ".1f"), row["images_per_second"]["n"]),
            *(*_middle(row["times_report"]), *_middle(row["step_to_sgd"])),
            *(f"{row['share_of_bound']:.0%}", f"{row['epoch_seconds_estimated']:,.1f} s"),
        )
        for name, row in part["contenders"].items()
    ]
    rates = part["machine"]
    return (
        f"{markdown(head, rows)}\n\n"
        f"Bound for one pass a step: {part['bound_images_per_second']:,.0f} images/s, by {part['bound_by']} "
        f"({rates['matrix_rate'] / 1e9:,.0f} GFLOP/s in a {precision} matrix product, "
        f"{rates['bandwidth'] / 1e9:,.1f} GB/s in a copy). {part['steps_a_turn']} step(s) a turn."
    )


def _inference(part: dict[str, Any], precision: str) -> str:
    head = "inference | batch | images/s | middle half | n | ms a call | times the usual | middle half | share of bound"
    rows = [
        (
            *(name, batch_size, *_middle(row["images_per_second"], ".1f"), row["images_per_second"]["n"]),
            *(f"{row['milliseconds_a_call']['median']:.1f}", *_middle(row["times_usual"])),
            "" if row["share_of_bound"] is None else f"{row['share_of_bound']:.0%}",
        )
        for batch_size, content in part["batches"].items()
        for name, row in content["contenders"].items()
    ]
    return markdown(head, rows)


def _memory(part: dict[str, Any], precision: str) -> str:
    rows = [
        (name, f"{peak / 2**20:,.0f}", f"{part['times_less_than_report'][name]:.2f}")
        for name, peak in part["peak_bytes"].items()
    ]
    head = "memory | peak of training, MiB | the baseline's / this"
    epochs = ", ".join(f"{value / 2**20:.1f}" for value in part["epoch_bytes"])
    return (
        f"{markdown(head, rows)}\n\n"
        f"Batch {part['batch_size']}, {part['steps']} steps, n = 1. A small run on the digits holds {epochs} MiB at "
        f"the end of its epochs: {part['growth_bytes'] / 2**20:+.1f} MiB from epoch 2 to the last."
    )


def _startup(part: dict[str, Any], precision: str) -> str:
    rows = [(name, *_middle(row), row["n"]) for name, row in part["spread"].items()]
    return markdown("start-up | seconds | middle half | n", rows)


def _convolution(part: dict[str, Any], precision: str) -> str:
    rows = [
        (
            shape["title"],
            *(name, f"{1000 * row['median']:.3f}", row["n"], *_middle(shape["to_plain"][name])),
        )
        for shape in part["shapes"]
        for name, row in shape["spread"].items()
    ]
    return markdown("convolution, both passes | form | ms | n | time / plain's | middle half", rows)


def _middle(spread: dict[str, float], number_format: str = ".2f") -> tuple[str, str]:
    """Return a median, and its middle half, as text."""
    low, median, high = (format(spread[name], number_format) for name in ("low", "median", "high"))
    return median, f"{low} to {high}"
