"""How a command answers: tables on a terminal, one line of JSON to anything else, refusals line by line."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel

from mixkd.contract.messages import Failed
from mixkd.contract.problems import Problem, RefusedError
from mixkd.printable import printable

_OF_A_SPEC = {"dataset_id": "data"}  # what the service calls a field, and what a spec does


@dataclass(frozen=True)
class Table:
    """Cells as a person reads them; the first column holds names, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def answer(document: BaseModel, tables: Sequence[Table], *, as_json: bool) -> None:
    """Write a command's answer to standard output."""
    if as_json or not sys.stdout.isatty():
        print(printable(document.model_dump_json()))  # noqa: T201 - a command's answer
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as Drawn

    console = Console()
    for table in tables:
        drawn = Drawn(title=table.title, title_justify="left", box=box.SIMPLE_HEAD)
        for number, name in enumerate(table.head):
            drawn.add_column(printable(name), justify="right" if number else "left")
        for row in table.rows:
            drawn.add_row(*map(printable, row))
        console.print(drawn, markup=False)


@contextmanager
def busy(what: str, *, as_json: bool) -> Iterator[None]:
    """While the block runs, let a terminal say that something happens."""
    if as_json or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def refusals(refused: RefusedError) -> None:
    """Write each problem on a line of its own to standard error: `field: problem (remedy)`."""
    for problem in as_a_spec_says(refused).problems:
        _complain(problem.field, problem.problem, problem.remedy)


def as_a_spec_says(refused: RefusedError) -> RefusedError:
    """The same refusal with the fields that a spec has, where a job of the service has others."""
    named = [(problem, _OF_A_SPEC.get(problem.field, problem.field)) for problem in refused.problems]
    return RefusedError(*(replace(problem, field=field) for problem, field in named))


def failure(failed: Failed) -> None:
    """Write why the work failed as one line to standard error: `cause: detail (remedy)`."""
    _complain(failed.cause, failed.detail, failed.remedy)


def _complain(where: str, what: str, remedy: str | None) -> None:
    line = f"{where}: {what}" + (f" ({remedy})" if remedy else "")
    print(printable(" ".join(line.splitlines())), file=sys.stderr)  # noqa: T201 - likewise


def unwritable(field: str, path: Path, error: OSError) -> RefusedError:
    """The refusal of a place where nothing can be written."""
    return RefusedError(
        Problem(
            field, f"cannot be written: {error.strerror}", path.name, "name a folder that you may write to"
        )
    )


def number(value: float) -> str:
    """1234567 -> 1,234,567; 0.98765 -> 0.9877."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def size(count: int) -> str:
    """Bytes in the unit that suits them: 3.1 GiB."""
    amount, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds as a person counts them: 95 ms, 12.3 s, 4 min 5 s, 3 h 20 min."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
