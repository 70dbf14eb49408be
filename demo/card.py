"""The report card on a terminal: teacher and student side by side."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

Card = dict[str, Any]

# What stands in a row: its name, where it is found on a model's card, and how it is written.
ROWS: tuple[tuple[str, tuple[str, ...], Callable[[Any], str]], ...] = (
    ("layers", ("layers",), str),
    ("accuracy, test", ("test", "accuracy"), "{:.2%}".format),
    ("macro-F1, test", ("test", "macro_f1"), "{:.4f}".format),
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
    "loss",
    "distance",
    "reductions",
)


def show(report: Card, console: Console) -> None:
    """Print the comparison, then everything that decided it."""
    table = Table("", "teacher", "student", "student / teacher", title="report card", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, path, write in ROWS:
        teacher, student = (_at(report[model], path) for model in ("teacher", "student"))
        table.add_row(name, write(teacher), write(student), f"{student / teacher:.3f}")
    console.print(table)
    details = Table.grid(padding=(0, 2))
    variant = dict.fromkeys(VARIANT, "") | report["variant"]
    for name, value in [*variant.items(), *_origins(report)]:
        details.add_row(f"[dim]{name.replace('_', ' ')}[/dim]", str(value))
    console.print(details)


def _origins(report: Card) -> list[tuple[str, object]]:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    splits = report["data"]["splits"]
    rows = ", ".join(f"{split} {splits[split]}" for split in ("train", "validation", "test"))
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
