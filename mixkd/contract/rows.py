"""Reads and checks data files: JSON lines, CSV, TSV; strict, streaming, one row in memory at a time.

UTF-8 only, with or without a byte order mark; lines end with LF or CRLF; empty lines are skipped. CSV is
RFC 4180 with a header. TSV has a header and no quoting (a quote is a character like any other). Labels are
text; a JSON integer becomes its decimal digits.
"""

import csv
import difflib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal

from mixkd.contract.data_spec import Columns, DataFormat, DataSpec, Split
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.strict import Strict
from mixkd.contract.text import encodes

MAX_ROW_BYTES = 1 << 20  # one row; a longer one is a missing line end or an unclosed quote
MAX_ROWS = 5_000_000  # in all splits; the check remembers a hash of every text
MAX_LABELS = 1000
MAX_LABEL_CHARACTERS = 200
BAD_ROWS_SHOWN = 20
CARVED_SHARE = 0.1  # of the training rows, where there is no validation file

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_DELIMITERS: dict[DataFormat, str] = {"csv": ",", "tsv": "\t"}


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


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    line: int
    problem: str


class Lengths(Strict):
    """Of all rows of a split: characters of the text, or of both texts together."""

    min: int
    median: int
    p95: int
    max: int


class SplitReport(Strict):
    """What one file holds. `duplicate_rows` repeat the text of an earlier row of the same file."""

    rows: int
    label_counts: dict[str, int]
    characters: Lengths
    duplicate_rows: int


class DatasetReport(Strict):
    """What a data set holds. `labels` are sorted; their order is that of a new head's outputs."""

    labels: list[str]
    splits: dict[Split, SplitReport]
    texts_in_two_splits: int


def read_rows(path: Path, data: DataSpec, name: str = "files", *, labelled: bool = True) -> Iterator[Row]:
    """The rows of one file, in order.

    Args:
        name: what a problem calls this file, for example `files.train`.

    Raises:
        RefusedError: the file cannot be read, lacks a column, or this row is bad.
    """
    for row in _scan(path, data.format, data.columns, name):
        if isinstance(row, BadRow):
            raise RefusedError(_bad_rows(name, [row], 1))
        yield row


def check_dataset(data: DataSpec) -> DatasetReport:
    """Read every row of every file and say what they hold.

    Raises:
        RefusedError: with every problem that was found, field `files.<split>`.
    """
    if "train" not in data.files:
        raise RefusedError(Problem("files.train", "a training file is needed", None, "add one"))
    seen: dict[int, int] = {}  # hash of a text -> the splits it is in, as bits
    problems: list[Problem] = []
    reports: dict[Split, SplitReport] = {}
    for split in _SPLITS:
        if split not in data.files:
            continue
        try:
            reports[split] = _check_split(data, split, seen)
        except RefusedError as refused:
            problems.extend(refused.problems)
    if not problems:
        problems = _label_problems(reports)
    if problems:
        raise RefusedError(*problems)
    return DatasetReport(
        labels=sorted(reports["train"].label_counts),
        splits=reports,
        texts_in_two_splits=sum(bits & (bits - 1) != 0 for bits in seen.values()),
    )


@dataclass
class _Tally:
    labels: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    duplicates: int = 0
    bad: list[BadRow] = field(default_factory=list)
    bad_total: int = 0


def _check_split(data: DataSpec, split: Split, seen: dict[int, int]) -> SplitReport:
    name = f"files.{split}"
    bit = 1 << _SPLITS.index(split)
    tally = _Tally()
    for row in _scan(data.files[split], data.format, data.columns, name):
        if isinstance(row, BadRow):
            tally.bad_total += 1
            if len(tally.bad) < BAD_ROWS_SHOWN:
                tally.bad.append(row)
            continue
        tally.labels[row.label] += 1
        tally.lengths[len(row.text) + len(row.text_pair or "")] += 1
        key = _text_hash(row)
        bits = seen.get(key, 0)
        tally.duplicates += bits & bit != 0
        seen[key] = bits | bit
        _stop_at_limits(name, data.columns, tally, len(seen))
    if tally.bad:
        raise RefusedError(_bad_rows(name, tally.bad, tally.bad_total))
    if not tally.labels:
        raise RefusedError(Problem(name, "there is no row in it", 0, "send a file with labelled texts"))
    return SplitReport(
        rows=tally.labels.total(),
        label_counts=dict(sorted(tally.labels.items())),
        characters=_lengths(tally.lengths),
        duplicate_rows=tally.duplicates,
    )


def _stop_at_limits(name: str, columns: Columns, tally: _Tally, texts: int) -> None:
    if len(tally.labels) > MAX_LABELS:
        raise RefusedError(
            Problem(
                name,
                f"more than {MAX_LABELS} different labels",
                columns.label,
                "check that `columns.label` names the column of the labels",
            )
        )
    if texts > MAX_ROWS or tally.labels.total() > MAX_ROWS:
        raise RefusedError(Problem(name, f"more than {MAX_ROWS} rows", None, "send a sample of them"))


def _label_problems(reports: dict[Split, SplitReport]) -> list[Problem]:
    known = reports["train"].label_counts
    problems = []
    if len(known) < 2:
        problems.append(
            Problem(
                "files.train",
                "every row has the same label; there is nothing to learn",
                next(iter(known)),
                "send rows of at least two labels",
            )
        )
    for split, report in reports.items():
        strange = sorted(report.label_counts.keys() - known.keys())
        if strange:
            problems.append(
                Problem(
                    f"files.{split}",
                    f"labels that the training file does not have: {listed(strange)}; "
                    f"it has {listed(sorted(known))}",
                    strange[:BAD_ROWS_SHOWN],
                    "add rows with these labels to the training file or leave them out here",
                )
            )
    return problems


def listed(names: Sequence[str], limit: int = BAD_ROWS_SHOWN) -> str:
    """Names in quotes, with commas; the first `limit` of them."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


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


def _scan(path: Path, format: DataFormat, columns: Columns, name: str) -> Iterator[Row | BadRow]:  # noqa: A002 - its name in a spec
    if not path.is_file():
        raise RefusedError(Problem(name, "there is no such file", path.name, "check its name"))
    lines = _lines(path)
    if format == "jsonl":
        return _json_rows(lines, columns, name)
    return _table_rows(lines, _DELIMITERS[format], columns, name)


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one that is too long."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if len(line) <= MAX_ROW_BYTES:
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_ROW_BYTES)
            yield number, None


def _json_rows(
    lines: Iterator[tuple[int, bytes | None]], columns: Columns, name: str
) -> Iterator[Row | BadRow]:
    first = True
    for number, line in lines:
        if line is not None and not line.strip():
            continue
        record = _json_object(number, line)
        if isinstance(record, BadRow):
            yield record
            continue
        if first:
            _need_columns(columns, list(record), name)
            first = False
        yield _json_row(number, record, columns)


def _json_object(number: int, line: bytes | None) -> dict[str, object] | BadRow:
    if line is None:
        return BadRow(number, f"longer than {MAX_ROW_BYTES} bytes")
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(number, f"not valid UTF-8 (byte {error.start + 1} of the line)")
    except json.JSONDecodeError as error:
        return BadRow(number, f"not valid JSON (character {error.colno}: {error.msg})")
    except (ValueError, RecursionError):  # a number of 5000 digits; brackets 100,000 deep
        return BadRow(number, "not a JSON object of texts")
    if not isinstance(record, dict):
        return BadRow(number, "not a JSON object")
    return record


def _json_row(number: int, record: dict[str, object], columns: Columns) -> Row | BadRow:
    label = record.get(columns.label)
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    pair = None if columns.text_pair is None else record.get(columns.text_pair)
    return _checked_row(number, record.get(columns.text), pair, label, columns)


class _Feed:
    """Gives the csv module text; knows the line it is at and how much the present row has taken."""

    def __init__(self, lines: Iterator[tuple[int, bytes | None]]) -> None:
        self._lines = lines
        self.line = 0
        self.row_bytes = 0
        self.too_long = False

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        self.line, line = next(self._lines)
        self.row_bytes += MAX_ROW_BYTES + 1 if line is None else len(line)
        if line is None or self.row_bytes > MAX_ROW_BYTES:
            self.too_long = True
            raise StopIteration
        # What is not UTF-8 becomes lone surrogates, which no valid text has: the row's check finds them.
        return line.decode("utf-8", "surrogateescape")


def _table_rows(
    lines: Iterator[tuple[int, bytes | None]], delimiter: str, columns: Columns, name: str
) -> Iterator[Row | BadRow]:
    feed = _Feed(lines)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    while True:
        start = feed.line + 1
        feed.row_bytes = 0
        try:
            cells = next(reader)
        except StopIteration:
            if feed.too_long:  # what follows cannot be told apart any more
                yield BadRow(start, f"longer than {MAX_ROW_BYTES} bytes; is a quote not closed?")
            return
        except csv.Error as error:
            if header is None:
                raise RefusedError(
                    Problem(name, f"the first line is not a header: {error}", None, "name the columns in it")
                ) from None
            if feed.too_long:
                yield BadRow(start, f"longer than {MAX_ROW_BYTES} bytes; is a quote not closed?")
                return
            yield BadRow(start, f"not a row: {error}")
            continue
        if not cells:
            continue
        if header is None:
            header = cells
            _need_columns(columns, header, name)
        elif len(cells) != len(header):
            yield BadRow(start, f"{len(cells)} cells where the header has {len(header)}")
        else:
            record = dict(zip(header, cells, strict=True))
            pair = None if columns.text_pair is None else record[columns.text_pair]
            yield _checked_row(start, record[columns.text], pair, record[columns.label], columns)


def _need_columns(columns: Columns, there: list[str], name: str) -> None:
    if any(not encodes(column) for column in there):
        raise RefusedError(
            Problem(name, "line 1 is not valid UTF-8", None, "save the file as UTF-8 and send it again")
        )
    problems = []
    for key, column in columns:
        if column is None or there.count(column) == 1:
            continue
        near = difflib.get_close_matches(column, [c for c in there if len(c) <= 200], n=1)
        missing = column not in there
        problems.append(
            Problem(
                f"columns.{key}",
                f"{name} has {'no' if missing else 'more than one'} column {column!r}; "
                f"its columns are {listed([c[:100] for c in there])}",
                column,
                f"did you mean {near[0]!r}?" if missing and near else "name one of these columns",
            )
        )
    if problems:
        raise RefusedError(*problems)


def _checked_row(number: int, text: object, pair: object, label: object, columns: Columns) -> Row | BadRow:
    problem = _text_problem(columns.text, text)
    if problem is None and columns.text_pair is not None:
        problem = _text_problem(columns.text_pair, pair)
    if problem is None:
        problem = _text_problem(columns.label, label) or _label_problem(columns.label, label)
    if problem is not None:
        return BadRow(number, problem)
    assert isinstance(text, str)
    assert isinstance(label, str)
    assert pair is None or isinstance(pair, str)
    return Row(number, text, pair, label)


def _text_problem(column: str, value: object) -> str | None:
    if value is None:
        return f"{column!r} is missing"
    if not isinstance(value, str):
        return f"{column!r} is not a text but {_json_word(value)}"
    if not value.strip():
        return f"{column!r} is empty"
    if "\0" in value:
        return f"{column!r} contains a NUL character"
    if not encodes(value):
        return f"{column!r} is not valid UTF-8"
    return None


def _label_problem(column: str, label: object) -> str | None:
    assert isinstance(label, str)
    if label != label.strip():
        return f"{column!r} has white space around it: {label[:50]!r}"
    if len(label) > MAX_LABEL_CHARACTERS:
        return f"{column!r} is longer than {MAX_LABEL_CHARACTERS} characters"
    return None


def _json_word(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
