"""From cells to the lines of a table: mean and spread over seeds, and paired differences."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.paper.cells import AUGMENTED, METHODS, TEACHER, Cell
from benchmarks.paper.tasks import Benchmark
from mixkd.contract.data_spec import MetricName
from mixkd.contract.strict import Strict

PUBLISHED: Mapping[str, Any] = json.loads(
    Path(__file__).with_name("published.json").read_text(encoding="utf-8")
)
_PUBLISHED_SHARE = {1.0: "dev", 0.1: "tenth", 0.01: "hundredth"}


class Spread(Strict):
    """Of one number over seeds. `sd` is the sample's (n − 1); null of a single seed."""

    mean: float
    sd: float | None
    values: tuple[float, ...]


class Line(Strict):
    """One method at one share of the data."""

    task: str
    share: float
    method: str
    seeds: tuple[int, ...]
    train_rows: int | None
    scores: tuple[Spread, ...]  # by the task's columns; none where it was not run
    minus_ft: Spread | None  # of the first column, seed by seed
    minus_kd: Spread | None
    published: tuple[float, ...] | None


def spread(values: Sequence[float]) -> Spread:
    """The mean and the standard deviation of some numbers."""
    return Spread(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None, values=tuple(values))


def lines(task: Benchmark, cells: Sequence[Cell]) -> list[Line]:
    """The lines of a task, a share after the other, the largest first."""
    mine = [cell for cell in cells if cell.key.task == task.name]
    shares = sorted({cell.key.share for cell in mine}, reverse=True)
    methods = [TEACHER, *METHODS, *(name + AUGMENTED for name in METHODS)]
    return [
        _line(task, [cell for cell in mine if cell.key.share == share], share, method)
        for share in shares
        for method in methods
    ]


def _line(task: Benchmark, cells: Sequence[Cell], share: float, method: str) -> Line:
    columns = [_by_seed(cells, method, task, number) for number in range(len(task.columns))]
    trained = [cell for cell in cells if cell.key.method == method]
    first = columns[0]
    against = {other: _by_seed(cells, other, task, 0) for other in ("FT", "KD")}
    return Line(
        task=task.name,
        share=share,
        method=method,
        seeds=tuple(first),
        train_rows=trained[0].train_rows if trained else None,
        scores=tuple(spread(list(column.values())) for column in columns if column),
        minus_ft=None if method in (TEACHER, "FT") else _difference(first, against["FT"]),
        minus_kd=None if method in (TEACHER, "KD") else _difference(first, against["KD"]),
        published=published(task.counterpart, share, method),
    )


def _by_seed(cells: Sequence[Cell], method: str, task: Benchmark, column: int) -> dict[int, float]:
    name, metric = task.columns[column]
    found = {
        cell.key.seed: shown(metric, cell.scores[name][metric]) for cell in cells if cell.key.method == method
    }
    return dict(sorted(found.items()))


def _difference(one: Mapping[int, float], other: Mapping[int, float]) -> Spread | None:
    """Of the seeds that both have: the same start, batches and partners."""
    both = [one[seed] - other[seed] for seed in one if seed in other]
    return spread(both) if both else None


def shown(metric: MetricName, value: float) -> float:
    """As GLUE prints it: in hundredths; an error stays in its unit."""
    return value if metric == "rmse" else 100 * value


def published(counterpart: str | None, share: float, method: str) -> tuple[float, ...] | None:
    """What the paper has for a column of its table, if anything."""
    table = PUBLISHED.get(_PUBLISHED_SHARE.get(share, ""), {"tasks": [], "rows": {}})
    if counterpart not in table["tasks"] or method not in table["rows"]:
        return None
    return tuple(table["rows"][method][table["tasks"].index(counterpart)])
