"""Labelled texts: the rows of a data set's files, and the check that says what they hold.

Streaming: one row in memory at a time. Labels are text; a whole number becomes its decimal digits. Those of
a multi-label row are a list, in CSV and TSV one cell with a separator. The label of a regression is a number.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from pydantic import Field

from mixkd.contract.data_spec import DataSpec, SetName, Task
from mixkd.contract.labels import BadValueError, label_of, text_of
from mixkd.contract.parquet import parquet_records
from mixkd.contract.problems import Problem, RefusedError, listed
from mixkd.contract.readers import BadRow, Record, text_records
from mixkd.contract.strict import Strict

MAX_ROWS = 5_000_000  # in all sets; the check remembers a hash of every text
MAX_LABELS = 1000
MAX_SKIPPED = 0.1  # of a file's rows: more are not a few broken ones but a wrong setting
BAD_ROWS_SHOWN = 20
CARVED_SHARE = 0.1  # of the training texts, for validation where there is no file for it

_FIRST_SETS = ("train", "validation", "test")


@dataclass(frozen=True)
class Soft:
    """Probabilities in the order of the model's outputs; an augmenter makes them, no file has them."""

    values: tuple[float, ...]


Label = str | float | tuple[str, ...] | Soft


@dataclass(frozen=True)
class Row:
    """A text, or a pair of texts; `line` is where the row starts, counted from 1.

    The label is a class, a score, or the labels of a multi-label row; None of a text without a label.
    """

    line: int
    text: str
    text_pair: str | None
    label: Label | None


class Lengths(Strict):
    """Of all rows of a set: characters of the text, or of both texts together."""

    min: int
    median: int
    p95: int
    max: int


class SplitReport(Strict):
    """What one file holds. `duplicate_rows` repeat the text of an earlier row of the same file.

    `label_counts` counts rows; one with several labels counts for each of them, one with a score for none.
    """

    rows: int
    label_counts: dict[str, int]
    characters: Lengths
    duplicate_rows: int


class DatasetReport(Strict):
    """What a data set holds. `labels` are in the order of a new head's outputs; a regression has none.

    `score_range` is the lowest and the highest score of all sets; `skipped_rows` those that were bad.
    """

    labels: list[str]
    splits: dict[SetName, SplitReport]
    texts_in_two_splits: int
    task: Task = "single_label"
    score_range: tuple[float, float] | None = None
    skipped_rows: dict[SetName, int] = Field({})


def read_rows(path: Path, data: DataSpec, name: str = "files", *, labelled: bool = True) -> Iterator[Row]:
    """The rows of one file, in order.

    Args:
        name: what a problem calls this file, for example `files.train`.
        labelled: whether its labels are read; otherwise it need not have a column for them.

    Raises:
        RefusedError: the file cannot be read, lacks a column, or this row is bad.
    """
    for row in _scan(path, data, name, labelled):
        if isinstance(row, Row):
            yield row
        elif row.last or data.bad_rows == "refuse":
            raise RefusedError(_bad_rows(name, [row], 1))


def check_dataset(data: DataSpec) -> DatasetReport:
    """Read every row of every file and say what they hold.

    Raises:
        RefusedError: with every problem that was found, field `files.<set>`.
    """
    if "train" not in data.files:
        raise RefusedError(Problem("files.train", "a training file is needed", None, "add one"))
    seen: dict[int, int] = {}  # hash of a text -> the sets it is in, as bits
    problems: list[Problem] = []
    tallies: dict[SetName, _Tally] = {}
    for number, name in enumerate(sorted(data.files, key=_place)):
        try:
            tallies[name] = _check_set(data, name, 1 << number, seen)
        except RefusedError as refused:
            problems.extend(refused.problems)
    if not problems:
        problems = _label_problems(data, tallies)
    if problems:
        raise RefusedError(*problems)
    spans = [tally.span for tally in tallies.values()]
    return DatasetReport(
        labels=list(data.labels or sorted(tallies["train"].labels)),
        splits={name: tally.report() for name, tally in tallies.items()},
        texts_in_two_splits=sum(bits & (bits - 1) != 0 for bits in seen.values()),
        task=data.task,
        score_range=(
            (min(low for low, _ in spans), max(high for _, high in spans))
            if data.task == "regression"
            else None
        ),
        skipped_rows={name: tally.bad_total for name, tally in tallies.items() if tally.bad_total},
    )


def _place(name: SetName) -> int:
    return _FIRST_SETS.index(name) if name in _FIRST_SETS else len(_FIRST_SETS)


@dataclass
class _Tally:
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    span: tuple[float, float] = (float("inf"), float("-inf"))
    different: set[Label | None] = field(default_factory=set)  # two at most
    lengths: Counter[int] = field(default_factory=Counter)
    duplicates: int = 0
    bad: list[BadRow] = field(default_factory=list)
    bad_total: int = 0
    cut_short: bool = False

    def add_bad(self, row: BadRow) -> None:
        self.bad_total += 1
        self.cut_short |= row.last
        if len(self.bad) < BAD_ROWS_SHOWN:
            self.bad.append(row)

    def add(self, row: Row) -> None:
        self.rows += 1
        self.lengths[len(row.text) + len(row.text_pair or "")] += 1
        label = row.label
        if isinstance(label, float):
            self.span = (min(self.span[0], label), max(self.span[1], label))
        elif isinstance(label, tuple):
            self.labels.update(label)
            label = tuple(sorted(label))
        elif isinstance(label, str):
            self.labels[label] += 1
        if len(self.different) < 2:
            self.different.add(label)

    def report(self) -> SplitReport:
        return SplitReport(
            rows=self.rows,
            label_counts=dict(sorted(self.labels.items())),
            characters=_lengths(self.lengths),
            duplicate_rows=self.duplicates,
        )


def _check_set(data: DataSpec, set_name: SetName, bit: int, seen: dict[int, int]) -> _Tally:
    name = f"files.{set_name}"
    tally = _Tally()
    for row in _scan(data.files[set_name], data, name, labelled=True):
        if isinstance(row, BadRow):
            tally.add_bad(row)
            continue
        tally.add(row)
        key = _text_hash(row)
        bits = seen.get(key, 0)
        tally.duplicates += bits & bit != 0
        seen[key] = bits | bit
        _stop_at_limits(name, data.columns.label, tally, len(seen))
    many = tally.bad_total > MAX_SKIPPED * (tally.rows + tally.bad_total)
    if tally.bad and (data.bad_rows == "refuse" or tally.cut_short or many):
        raise RefusedError(_bad_rows(name, tally.bad, tally.bad_total))
    if not tally.rows:
        raise RefusedError(Problem(name, "there is no row in it", 0, "send a file with labelled texts"))
    return tally


def _stop_at_limits(name: str, label_column: str, tally: _Tally, texts: int) -> None:
    if len(tally.labels) > MAX_LABELS:
        raise RefusedError(
            Problem(
                name,
                f"more than {MAX_LABELS} different labels",
                label_column,
                "check that `columns.label` names the column of the labels",
            )
        )
    if texts > MAX_ROWS or tally.rows > MAX_ROWS:
        raise RefusedError(Problem(name, f"more than {MAX_ROWS} rows", None, "send a sample of them"))


def _label_problems(data: DataSpec, tallies: dict[SetName, _Tally]) -> list[Problem]:
    train = tallies["train"]
    what, others = {
        "single_label": ("label", "at least two labels"),
        "multi_label": ("labels", "other labels"),
        "regression": ("score", "other scores"),
    }[data.task]
    problems = []
    if len(train.different) < 2:
        (only,) = train.different
        problems.append(
            Problem(
                "files.train",
                f"every row has the same {what}; there is nothing to learn",
                list(only) if isinstance(only, tuple) else only,
                f"send rows of {others}",
            )
        )
    if data.labels is not None:
        return problems  # every row was held against them
    for name, tally in tallies.items():
        strange = sorted(tally.labels.keys() - train.labels.keys())
        if strange:
            problems.append(
                Problem(
                    f"files.{name}",
                    f"labels that the training file does not have: {listed(strange)}; "
                    f"it has {listed(sorted(train.labels))}",
                    strange[:BAD_ROWS_SHOWN],
                    "add rows with these labels to the training file or leave them out here",
                )
            )
    return problems


def _bad_rows(name: str, bad: Sequence[BadRow], total: int) -> Problem:
    """Field, and as the value the numbers of the lines; their reasons are in the text."""
    reasons = "; ".join(f"line {row.line}: {row.problem}" for row in bad)
    more = f"; and {total - len(bad)} more" if total > len(bad) else ""
    count = "" if total == 1 else f"{total} bad rows: "
    return Problem(name, f"{count}{reasons}{more}", [row.line for row in bad], "correct or remove these rows")


def _text_hash(row: Row) -> int:
    both = row.text if row.text_pair is None else f"{row.text}\0{row.text_pair}"
    return int.from_bytes(hashlib.blake2b(both.encode(), digest_size=8).digest(), "little")


def _lengths(counts: Counter[int]) -> Lengths:
    """Nearest-rank percentiles."""
    ordered = sorted(counts.items())
    total = counts.total()

    def rank(percent: int) -> int:
        wanted = -(-total * percent // 100)  # rounded up
        ranks = zip(accumulate(count for _, count in ordered), ordered, strict=True)
        return next(length for upto, (length, _) in ranks if upto >= wanted)

    return Lengths(min=ordered[0][0], median=rank(50), p95=rank(95), max=ordered[-1][0])


# -- one file --------------------------------------------------------------------------------------------


def _scan(path: Path, data: DataSpec, name: str, labelled: bool) -> Iterator[Row | BadRow]:
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        there = False
    if not there:
        raise RefusedError(Problem(name, "there is no such file", path.name[:200], "check its name"))
    if not os.access(path, os.R_OK):
        raise RefusedError(Problem(name, "it cannot be read", path.name, "make it readable"))
    columns: dict[str, str] = data.columns.model_dump(exclude_none=True)
    if not labelled:
        del columns["label"]
    if data.format == "parquet":
        records = parquet_records(path, columns, name)
    else:
        records = text_records(path, data.format, data.header, columns, name)
    for record in records:
        yield record if isinstance(record, BadRow) else _row(record, data, labelled)


def _row(record: Record, data: DataSpec, labelled: bool) -> Row | BadRow:
    columns, values = data.columns, record.values
    try:
        return Row(
            line=record.line,
            text=text_of(columns.text, values.get(columns.text)),
            text_pair=columns.text_pair and text_of(columns.text_pair, values.get(columns.text_pair)),
            label=label_of(values.get(columns.label), data) if labelled else None,
        )
    except BadValueError as bad:
        return BadRow(record.line, str(bad))
