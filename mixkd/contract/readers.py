"""The records of JSON lines, CSV and TSV: strict, streaming; what they mean is judged elsewhere.

UTF-8 only, with or without a byte order mark; lines end with LF or CRLF; empty lines are skipped. CSV is
RFC 4180. TSV has no quoting (a quote is a character like any other). Of a file's columns only those that
are asked for are looked at.
"""

import csv
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mixkd.contract.data_spec import DataFormat
from mixkd.contract.problems import Problem, RefusedError, listed
from mixkd.contract.text import encodes

MAX_ROW_BYTES = 1 << 20  # one row; a longer one is a missing line end or an unclosed quote

csv.field_size_limit(MAX_ROW_BYTES)  # of a cell, for the whole process; what the csv module has is 128 KiB

_DELIMITERS: dict[DataFormat, str] = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class Record:
    """The values of the columns that were asked for; `line` is where it starts, counted from 1."""

    line: int
    values: Mapping[str, object]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why; `last` if nothing after it can be read."""

    line: int
    problem: str
    last: bool = False


def text_records(
    path: Path,
    format: DataFormat,  # noqa: A002 - its name in a spec
    header: bool,
    columns: Mapping[str, str],
    name: str,
) -> Iterator[Record | BadRow]:
    """The records of a file of JSON lines, CSV or TSV, in order.

    Args:
        header: whether the first line of CSV or TSV names the columns; otherwise they are 0, 1, 2 …
        columns: the column that each field of `Columns` names.
        name: what a problem calls this file, for example `files.train`.

    Raises:
        RefusedError: it lacks a column.
    """
    if format == "jsonl":
        return _json_records(_lines(path), columns, name)
    return _table_records(_lines(path), _DELIMITERS[format], header, columns, name)


def need_columns(columns: Mapping[str, str], there: Sequence[str], name: str) -> None:
    """Refuse a file that lacks a column or has it twice.

    Raises:
        RefusedError: fields `columns.*`.
    """
    if any(not encodes(column) for column in there):
        raise RefusedError(
            Problem(name, "line 1 is not valid UTF-8", None, "save the file as UTF-8 and send it again")
        )
    problems = []
    for key, column in columns.items():
        if there.count(column) == 1:
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


# -- JSON lines ------------------------------------------------------------------------------------------


def _json_records(
    lines: Iterator[tuple[int, bytes | None]], columns: Mapping[str, str], name: str
) -> Iterator[Record | BadRow]:
    first = True
    for number, line in lines:
        if line is not None and not line.strip():
            continue
        record = _json_object(number, line)
        if isinstance(record, BadRow):
            yield record
            continue
        if first:
            need_columns(columns, list(record), name)
            first = False
        yield Record(number, record)


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


# -- CSV and TSV -----------------------------------------------------------------------------------------


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


def _table_records(
    lines: Iterator[tuple[int, bytes | None]],
    delimiter: str,
    has_header: bool,
    columns: Mapping[str, str],
    name: str,
) -> Iterator[Record | BadRow]:
    header: list[str] | None = None
    for line, cells in _cells(lines, delimiter):
        if isinstance(cells, BadRow):
            if header is None and has_header:
                raise RefusedError(
                    Problem(name, f"the first line is not a header: {cells.problem}", None,
                            "name the columns in it")
                )  # fmt: skip
            yield cells
            continue
        if header is None:
            header = cells if has_header else [str(number) for number in range(len(cells))]
            need_columns(columns, header, name)
            if has_header:
                continue
        if len(cells) == len(header):
            yield Record(line, dict(zip(header, cells, strict=True)))
        else:
            first = "header" if has_header else "first row"
            yield BadRow(line, f"{len(cells)} cells where the {first} has {len(header)}")


def _cells(
    lines: Iterator[tuple[int, bytes | None]], delimiter: str
) -> Iterator[tuple[int, list[str] | BadRow]]:
    """The cells of each row that has any, with the line that it starts at."""
    feed = _Feed(lines)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(feed, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        start = feed.line + 1
        feed.row_bytes = 0
        try:
            if cells := next(reader):
                yield start, cells
        except (StopIteration, csv.Error) as end:
            if feed.too_long:  # what follows cannot be told apart any more
                problem = f"longer than {MAX_ROW_BYTES} bytes; is a quote not closed?"
                yield start, BadRow(start, problem, last=True)
                return
            if isinstance(end, StopIteration):
                return
            yield start, BadRow(start, f"not a row: {end}")
