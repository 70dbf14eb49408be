"""Data files: what is read, what is reported, what is refused and how."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mixkd.contract import readers, rows
from mixkd.contract.data_spec import Columns, DataFormat, DataSpec, Split, Task
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import Row, check_dataset, read_rows

GOOD = b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'


def write(folder: Path, content: bytes, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def spec(form: DataFormat = "jsonl", columns: Columns | None = None, **fields: Any) -> DataSpec:
    return DataSpec.model_validate({"files": {}, "format": form, "columns": columns or Columns()} | fields)


def read(
    folder: Path, content: bytes, form: DataFormat = "jsonl", columns: Columns | None = None
) -> list[Row]:
    return list(read_rows(write(folder, content), spec(form, columns)))


def refusal(
    folder: Path, files: dict[Split, bytes], form: DataFormat = "jsonl", columns: Columns | None = None
) -> tuple[Problem, ...]:
    paths = {split: write(folder, content, split) for split, content in files.items()}
    with pytest.raises(RefusedError) as caught:
        check_dataset(DataSpec(files=paths, format=form, columns=columns or Columns()))
    return caught.value.problems


def bad_lines(problem: Problem) -> list[int]:
    assert isinstance(problem.value, list)
    return problem.value


def test_a_byte_order_mark_crlf_and_integer_labels_are_read(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf{"text": "a", "label": 1}\r\n\r\n{"text": "b", "label": "x", "more": []}'
    assert read(tmp_path, content) == [Row(1, "a", None, "1"), Row(3, "b", None, "x")]


def test_csv_cells_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbflabel,text\r\nx,"a, ""b""\r\nc"\r\ny,d\r\n'
    assert read(tmp_path, content, "csv") == [Row(2, 'a, "b"\r\nc', None, "x"), Row(4, "d", None, "y")]


def test_a_quote_in_tsv_is_a_character_like_any_other(tmp_path: Path) -> None:
    content = b'text\tother\tlabel\n"a\tb" c\tx\n'
    columns = Columns(text="text", text_pair="other")
    assert read(tmp_path, content, "tsv", columns) == [Row(2, '"a', 'b" c', "x")]


def test_the_report_counts_what_is_there(tmp_path: Path) -> None:
    train = [("a" * n, "long" if n > 50 else "short") for n in range(1, 101)] + [("a", "short")]
    files: dict[Split, Path] = {
        "train": write(
            tmp_path, b"".join(json.dumps({"text": t, "label": lb}).encode() + b"\n" for t, lb in train)
        ),
        "test": write(
            tmp_path, b'{"text": "aa", "label": "short"}\n{"text": "new", "label": "short"}\n', "test"
        ),
    }
    report = check_dataset(DataSpec(files=files))
    assert report.labels == ["long", "short"]
    assert report.splits["train"].model_dump() == {
        "rows": 101,
        "label_counts": {"long": 50, "short": 51},
        "characters": {"min": 1, "median": 50, "p95": 95, "max": 100},
        "duplicate_rows": 1,
    }
    assert report.splits["test"].duplicate_rows == 0
    assert report.texts_in_two_splits == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"text": "", "label": "x"}', "'text' is empty"),
        (b'{"text": " \\t", "label": "x"}', "'text' is empty"),
        (b'{"label": "x"}', "'text' is missing"),
        (b'{"text": "a"}', "'label' is missing"),
        (b'{"text": "a", "label": null}', "'label' is missing"),
        (b'{"text": "a", "label": true}', "'label' is not a text but true or false"),
        (b'{"text": "a", "label": 0.5}', "'label' is not a text but a number"),
        (b'{"text": 1, "label": "x"}', "'text' is not a text but a number"),
        (b'{"text": ["a"], "label": "x"}', "'text' is not a text but a list"),
        (b'{"text": "a", "label": " x"}', "white space around it"),
        (b'{"text": "a\\u0000b", "label": "x"}', "NUL"),
        (b'{"text": "a\\ud800b", "label": "x"}', "not valid UTF-8"),
        (b'{"text": "\xff", "label": "x"}', "not valid UTF-8 (byte 11 of the line)"),
        (b'{"text": "a", "label": "x"', "not valid JSON"),
        (b'["a", "x"]', "not a JSON object"),
        (b"[" * 100_000, "not a JSON object"),
        (b'{"text": "a", "label": ' + b"1" * 5000 + b"}", "not a JSON object"),
        (b'{"text": "' + b"a" * readers.MAX_ROW_BYTES + b'", "label": "x"}', "longer than"),
    ],
)
def test_a_bad_json_line_is_named_with_its_reason(tmp_path: Path, line: bytes, why: str) -> None:
    (problem,) = refusal(tmp_path, {"train": GOOD + line + b"\n" + GOOD})
    assert problem.field == "files.train"
    assert bad_lines(problem) == [3]
    assert "line 3: " in problem.problem
    assert why in problem.problem


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"only one", "1 cells where the header has 2"),
        (b"a,x,more", "3 cells where the header has 2"),
        (b",x", "'text' is empty"),
        (b"a,", "'label' is empty"),
        (b"caf\xe9,x", "not valid UTF-8"),
        (b"a\0b,x", "NUL"),
        (b'"a"b,x', "not a row"),
    ],
)
def test_a_bad_csv_line_is_named_with_its_reason(tmp_path: Path, line: bytes, why: str) -> None:
    (problem,) = refusal(tmp_path, {"train": b"text,label\na,x\n" + line + b"\nb,y\n"}, "csv")
    assert bad_lines(problem) == [3]
    assert why in problem.problem


@pytest.mark.parametrize(("form", "mark"), [("csv", ","), ("tsv", "\t")])
def test_a_cell_may_be_as_long_as_a_row(tmp_path: Path, form: DataFormat, mark: str) -> None:
    text = "x" * (readers.MAX_ROW_BYTES - 10)
    assert read(tmp_path, f"text{mark}label\n{text}{mark}a\n".encode(), form) == [Row(2, text, None, "a")]


def test_an_unclosed_quote_is_reported_where_it_opens(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": b'text,label\na,x\n"b,y\n' + b"c,x\n" * 400_000}, "csv")
    assert bad_lines(problem)[0] == 3


def test_the_first_twenty_bad_lines_and_their_number_are_reported(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": GOOD + b"no\n" * 25})
    assert bad_lines(problem) == list(range(3, 23))
    assert problem.problem.startswith("25 bad rows: line 3: ")
    assert problem.problem.endswith("; and 5 more")


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_a_missing_column_names_those_that_are_there(tmp_path: Path, form: DataFormat) -> None:
    content = {
        "jsonl": b'{"question": "a", "label": "x"}\n',
        "csv": b"question,label\na,x\n",
        "tsv": b"question\tlabel\na\tx\n",
    }[form]
    (problem,) = refusal(tmp_path, {"train": content}, form, Columns(text="qestion"))
    assert (problem.field, problem.value) == ("columns.text", "qestion")
    assert "'question', 'label'" in problem.problem
    assert problem.remedy == "did you mean 'question'?"


def test_a_column_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": b"text,label,text\na,x,b\n"}, "csv")
    assert problem.field == "columns.text"
    assert "more than one column 'text'" in problem.problem


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(tmp_path: Path, form: DataFormat, content: bytes) -> None:
    (problem,) = refusal(tmp_path, {"train": content}, form)
    assert (problem.field, problem.problem) == ("files.train", "there is no row in it")


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": b"text,label\n"}, "csv")
    assert problem.problem == "there is no row in it"


def test_one_label_only_is_refused(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": b'{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}\n'})
    assert problem.field == "files.train"
    assert "same label" in problem.problem
    assert problem.value == "x"


def test_labels_that_training_lacks_are_refused_with_both_lists(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": GOOD, "test": b'{"text": "a", "label": "z"}\n'})
    assert (problem.field, problem.value) == ("files.test", ["z"])
    assert "'x', 'y'" in problem.problem


def test_every_file_with_a_problem_is_reported_at_once(tmp_path: Path) -> None:
    found = refusal(tmp_path, {"train": b"no\n", "validation": b"", "test": GOOD})
    assert [problem.field for problem in found] == ["files.train", "files.validation"]


def test_a_missing_training_file_is_refused(tmp_path: Path) -> None:
    assert [p.field for p in refusal(tmp_path, {"test": GOOD})] == ["files.train"]


def test_a_text_column_taken_for_the_label_is_refused(tmp_path: Path) -> None:
    content = b"".join(b'{"text": "t", "label": "%d"}\n' % n for n in range(rows.MAX_LABELS + 1))
    (problem,) = refusal(tmp_path, {"train": content})
    assert "different labels" in problem.problem
    assert problem.remedy is not None
    assert "columns.label" in problem.remedy


def test_utf16_is_refused(tmp_path: Path) -> None:
    (problem,) = refusal(tmp_path, {"train": "text,label\na,x\n".encode("utf-16")}, "csv")
    assert "not valid UTF-8" in problem.problem


def test_memory_does_not_grow_with_the_length_of_the_texts(tmp_path: Path) -> None:
    with (tmp_path / "train").open("wb") as file:
        for number in range(400):
            text = f"{number} " + "a" * 100_000
            file.write(json.dumps({"text": text, "label": str(number % 2)}).encode() + b"\n")
    tracemalloc.start()
    check_dataset(DataSpec(files={"train": tmp_path / "train"}))  # 40 MB
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_reading_stops_at_the_first_bad_row(tmp_path: Path) -> None:
    reader = read_rows(write(tmp_path, GOOD + b"no\n" + GOOD), spec(), "files.test")
    assert [next(reader).line, next(reader).line] == [1, 2]
    with pytest.raises(RefusedError, match=r"^files\.test: line 3: not valid JSON"):
        next(reader)


pieces = st.sampled_from(
    [
        b"text,label\n",
        b"text\tlabel\n",
        b'{"text": "',
        b'", "label": "',
        b'", "label": ["',
        b'", "label": 1.5}',
        b'"]}',
        b'"}',
        b"|",
        b'"',
        b"\n",
        b"\r",
        b"\0",
        b",",
        b"\t",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    content=st.binary(max_size=300) | st.lists(pieces | st.binary(max_size=5)).map(b"".join),
    form=st.sampled_from(["jsonl", "csv", "tsv", "parquet"]),
    task=st.sampled_from(["single_label", "multi_label", "regression"]),
)
def test_any_bytes_are_rows_or_a_refusal(
    tmp_path: Path, content: bytes, form: DataFormat, task: Task
) -> None:
    path = write(tmp_path, content)
    data = spec(form, task=task, files={"train": path})
    try:
        found = list(read_rows(path, data))
    except RefusedError:
        with pytest.raises(RefusedError):
            check_dataset(data)
    else:
        assert all(row.text.strip() and means_something(row.label, task) for row in found)
        assert [row.line for row in found] == sorted({row.line for row in found})


def means_something(label: object, task: Task) -> bool:
    if task == "regression":
        return isinstance(label, float) and math.isfinite(label)
    names = [label] if task == "single_label" else label
    return isinstance(names, list | tuple) and all(isinstance(name, str) and name.strip() for name in names)


@pytest.mark.parametrize("name", ["", "a\0", "x" * 201])
def test_a_column_name_that_nothing_could_hold_is_refused(name: str) -> None:
    for key in ("text", "text_pair", "label"):
        with pytest.raises(ValidationError):
            Columns.model_validate({key: name})
