"""The records of a Parquet file, a batch of rows in memory at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.readers import MAX_ROW_BYTES, BadRow, Record, need_columns

_BATCH = 128  # rows; each may have MAX_ROW_BYTES
_BUFFER = 1 << 20  # bytes; without one a whole row group is read at once


def parquet_records(path: Path, columns: Mapping[str, str], name: str) -> Iterator[Record | BadRow]:
    """The records of one file, in order.

    Texts, whole numbers, other numbers, truth values, and lists of texts or whole numbers are given as Python
    has them. Bytes that are not UTF-8 become lone surrogates, which no valid text has.

    Raises:
        RefusedError: it is no Parquet file, is damaged, lacks a column, or one holds something else.
    """
    import pyarrow as pa
    from pyarrow import parquet

    line = 0
    try:
        with parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            need_columns(columns, file.schema_arrow.names, name)
            _refuse_types(columns, file.schema_arrow, name)
            wanted = list(dict.fromkeys(columns.values()))
            for batch in file.iter_batches(_BATCH, columns=wanted, use_threads=False):
                lists = [_values(batch.column(column)) for column in wanted]
                for values in zip(*lists, strict=True):
                    line += 1
                    yield _record(line, dict(zip(wanted, values, strict=True)))
    except PermissionError:  # pyarrow's own words have the path in them
        raise RefusedError(Problem(name, "it cannot be read", path.name, "make it readable")) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise RefusedError(
            Problem(name, f"not a Parquet file that can be read: {told}", None, "write it again")
        ) from None


def _refuse_types(columns: Mapping[str, str], schema: Any, name: str) -> None:
    problems = [
        Problem(
            f"columns.{key}",
            f"{name} has values of the type {type_} in {column!r}",
            str(type_)[:200],
            "write texts, numbers, or lists of texts",
        )
        for key, column in columns.items()
        if not _readable(type_ := schema.field(column).type)
    ]
    if problems:
        raise RefusedError(*problems)


def _readable(type_: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(type_) or _is_list(type_):
        type_ = type_.value_type
        return _is_text(type_) or types.is_integer(type_) or types.is_null(type_)
    is_number = types.is_integer(type_) or types.is_floating(type_)
    return _is_text(type_) or is_number or types.is_boolean(type_) or types.is_null(type_)


def _is_list(type_: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_))


def _is_text(type_: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))


def _values(array: Any) -> list[object]:
    """An array's values; pyarrow itself would raise at the first text that is not UTF-8."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_list(array.type) and _is_text(array.type.value_type):
        array = array.cast(pa.large_list(pa.large_binary()))
    elif _is_text(array.type):
        array = array.cast(pa.large_binary())
    return [_decoded(value) for value in array.to_pylist()]


def _decoded(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return [_decoded(one) for one in value] if isinstance(value, list) else value


def _record(line: int, values: Mapping[str, object]) -> Record | BadRow:
    parts = [part for value in values.values() for part in (value if isinstance(value, list) else [value])]
    if sum(len(part) for part in parts if isinstance(part, str)) > MAX_ROW_BYTES:
        return BadRow(line, f"longer than {MAX_ROW_BYTES} characters")
    return Record(line, values)
