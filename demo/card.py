"""The report card on a terminal: teacher and student side by side."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

Card = dict[str, Any]

# What stands in a row: its name, where it is found on a model's card, and how it is written.
ROWS: tuple[tuple[str, tuple[str, ...], Callable[[Any], str]], ...] = (
    ("layers", ("layers",), str),
    ("parameters", ("parameters",), "{:,}".format),
    ("bytes on disk", ("bytes",), "{:,}".format),
    ("latency, batch 1", ("speed", "latency_ms_p50"), "{:.2f} ms".format),
    ("throughput, batch 32", ("speed", "examples_per_second"), "{:.0f} texts/s".format),
)

# The variant in the order of the method; Postgres keeps no order of its own. What is not named here follows.
VARIANT = (
    "student_from",
    "mixed_at",
    "weight",
    "partner",
    "shorter_row",
    "attention_mask",
    "positions",
    "segment_ids",
    "targets",
    "class_weights",
    "loss",
    "distance",
    "reductions",
)


def show(report: Card, console: Console) -> None:
    """Print the comparison, then everything that decided it."""
    table = Table("", "teacher", "student", "student / teacher", title="report card", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, teacher, student in _scores(report):
        table.add_row(
            name, _interval(teacher), _interval(student), f"{student['value'] / teacher['value']:.3f}"
        )
    for name, path, write in ROWS:
        ours, theirs = _at(report["student"], path), _at(report["teacher"], path)
        table.add_row(name, write(theirs), write(ours), f"{ours / theirs:.3f}")
    console.print(table)
    details = Table.grid(padding=(0, 2))
    variant = dict.fromkeys(VARIANT, "") | report["variant"]
    for name, value in [*variant.items(), *_origins(report)]:
        details.add_row(f"[dim]{name.replace('_', ' ')}[/dim]", str(value))
    console.print(details)


def _scores(report: Card) -> list[tuple[str, Card, Card]]:
    """Each metric of the set that counts, with its interval: the teacher's and the student's."""
    name = report["judged_on"]
    judged = report["sets"][name]
    return [
        (f"{metric.replace('_', '-')}, {name}", teacher, judged["student"]["scores"][metric])
        for metric, teacher in judged["teacher"]["scores"].items()
    ]


def _interval(score: Card) -> str:
    return f"{score['value']:.4f} [{score['low']:.3f}, {score['high']:.3f}]"


def _origins(report: Card) -> list[tuple[str, object]]:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    counts = report["data"]["sets"]["rows"]
    rows = ", ".join(f"{name} {counts[name]}" for name in ("train", "validation", "test"))
    return [
        ("seed", report["seed"]),
        ("rows", rows),
        ("measured on", f"{report['device']}, {report['threads']} threads"),
        ("versions", versions),
    ]


def _at(card: Card, path: tuple[str, ...]) -> Any:
    value: Any = card
    for key in path:
        value = value[key]
    return value
