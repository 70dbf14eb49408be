"""What a value of a data file means: a text, a class, several labels, a score."""

import re

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import listed
from mixkd.contract.text import encodes

MAX_LABEL_CHARACTERS = 200
MAX_SCORE = 1e15  # its square has room in float32

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")


class BadValueError(Exception):
    """A value that cannot be used, and why."""


def text_of(column: str, value: object) -> str:
    """A text that is not empty.

    Raises:
        BadValueError: it is something else.
    """
    if value is None:
        raise BadValueError(f"{column!r} is missing")
    if not isinstance(value, str):
        raise BadValueError(f"{column!r} is not a text but {_kind(value)}")
    if not value.strip():
        raise BadValueError(f"{column!r} is empty")
    if "\0" in value:
        raise BadValueError(f"{column!r} contains a NUL character")
    if not encodes(value):
        raise BadValueError(f"{column!r} is not valid UTF-8")
    return value


def label_of(value: object, data: DataSpec) -> str | tuple[str, ...] | float:
    """A label of the data's task, by its name.

    Raises:
        BadValueError: it is none.
    """
    column = data.columns.label
    if value is None:
        raise BadValueError(f"{column!r} is missing")
    if data.task == "single_label":
        return _class(value, data)
    if data.format in ("csv", "tsv") and isinstance(value, str):
        return _score(value, data) if data.task == "regression" else _several(_split(value, data), data)
    if data.task == "regression":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(f"{column!r} is not a number but {_kind(value)}")
        return _score(value, data)
    if not isinstance(value, list):
        raise BadValueError(f"{column!r} is not a list but {_kind(value)}")
    return _several(value, data)


def _class(value: object, data: DataSpec) -> str:
    column = data.columns.label
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    label = text_of(column, value)
    if label != label.strip():
        raise BadValueError(f"{column!r} has white space around it: {label[:50]!r}")
    if len(label) > MAX_LABEL_CHARACTERS:
        raise BadValueError(f"{column!r} is longer than {MAX_LABEL_CHARACTERS} characters")
    if data.label_names and label not in data.label_names:
        raise BadValueError(f"{column!r} is {label!r}; `label_names` has {listed(list(data.label_names))}")
    label = data.label_names.get(label, label)
    if data.labels is not None and label not in data.labels:
        raise BadValueError(f"{column!r} is {label!r}; `labels` has {listed(data.labels)}")
    return label


def _split(cell: str, data: DataSpec) -> list[object]:
    return list(cell.split(data.label_separator)) if cell else []


def _several(values: list[object], data: DataSpec) -> tuple[str, ...]:
    labels = tuple(_class(value, data) for value in values)
    for number, label in enumerate(labels):
        if label in labels[:number]:
            raise BadValueError(f"{data.columns.label!r} names {label!r} twice")
    return labels


def _score(value: str | float, data: DataSpec) -> float:
    column = data.columns.label
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise BadValueError(f"{column!r} is not a number: {value[:50]!r}")
    try:
        score = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        score = float("inf")
    if not abs(score) <= MAX_SCORE:  # nor is NaN
        raise BadValueError(f"{column!r} is not a number of at most {MAX_SCORE:g}")
    if data.score_range is not None and not data.score_range[0] <= score <= data.score_range[1]:
        lowest, highest = data.score_range
        raise BadValueError(f"{column!r} is {score:g}, outside `score_range` from {lowest:g} to {highest:g}")
    return score


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
