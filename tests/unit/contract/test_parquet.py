"""Parquet files: what is read and refused, and that rows read the same whatever format they are in."""

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import Label, Row, check_dataset, read_rows

any_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def spec(path: Path, **fields: Any) -> DataSpec:
    return DataSpec.model_validate({"files": {"train": path}, "format": "parquet"} | fields)


def save(folder: Path, columns: dict[str, Any], **fields: Any) -> DataSpec:
    path = folder / "train.parquet"
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return spec(path, **fields)


def rows(data: DataSpec) -> list[Row]:
    return list(read_rows(data.files["train"], data, "files.train"))


def refusal(data: DataSpec) -> Problem:
    with pytest.raises(RefusedError) as caught:
        check_dataset(data)
    return caught.value.problems[0]


TEXTS = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (["x", "y", "x"], ["x", "y", "x"]),
        (pa.array(["x", "y", "x"], pa.large_string()), ["x", "y", "x"]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([1, 0, -1], pa.int8()), ["1", "0", "-1"]),
        (pa.array([1, 0, 2**63], pa.uint64()), ["1", "0", "9223372036854775808"]),
    ],
)
def test_texts_and_whole_numbers_are_labels(tmp_path: Path, labels: object, read: list[str]) -> None:
    found = rows(save(tmp_path, {"text": TEXTS, "label": labels}))
    assert [(row.line, row.text, row.label) for row in found] == [
        (number + 1, text, label) for number, (text, label) in enumerate(zip(TEXTS, read, strict=True))
    ]


@pytest.mark.parametrize(
    "labels", [[["x", "y"], [], ["y"]], pa.array([["x", "y"], [], ["y"]], pa.large_list(pa.large_string()))]
)
def test_lists_are_several_labels(tmp_path: Path, labels: object) -> None:
    found = rows(save(tmp_path, {"text": TEXTS, "label": labels}, task="multi_label"))
    assert [row.label for row in found] == [("x", "y"), (), ("y",)]


def test_the_hubs_numbers_of_several_labels_get_their_names(tmp_path: Path) -> None:
    columns = {"text": TEXTS, "label": [[0, 1], [], [1]]}
    found = rows(save(tmp_path, columns, task="multi_label", label_names={"0": "x", "1": "y"}))
    assert [row.label for row in found] == [("x", "y"), (), ("y",)]


@pytest.mark.parametrize("type_", [pa.float16(), pa.float32(), pa.float64(), pa.int64()])
def test_numbers_are_scores(tmp_path: Path, type_: object) -> None:
    labels = pa.array([0, 2, 4], type_)
    found = rows(save(tmp_path, {"text": TEXTS, "label": labels}, task="regression"))
    assert [row.label for row in found] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"text": ["a", None, "c"], "label": ["x", "y", "x"]}, "'text' is missing"),
        ({"text": ["a", " ", "c"], "label": ["x", "y", "x"]}, "'text' is empty"),
        ({"text": TEXTS, "label": ["x", None, "x"]}, "'label' is missing"),
        ({"text": ["a", "b" * (1 << 20), "c"], "label": ["x", "y", "x"]}, "longer than"),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path: Path, columns: dict[str, Any], why: str) -> None:
    problem = refusal(save(tmp_path, columns))
    assert (problem.field, problem.value) == ("files.train", [2])
    assert why in problem.problem


@pytest.mark.parametrize(
    ("labels", "why"),
    [([True, False, True], "true or false"), ([0.5, 1, 1], "a number"), ([["x"], ["y"], []], "a list")],
)
def test_a_value_of_another_task_is_no_label(tmp_path: Path, labels: list[object], why: str) -> None:
    problem = refusal(save(tmp_path, {"text": TEXTS, "label": labels}))
    assert f"'label' is not a text but {why}" in problem.problem


def test_a_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"caf\xe9", b"c"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    problem = refusal(save(tmp_path, {"text": texts, "label": ["x", "y", "x"]}))
    assert problem.problem == "line 2: 'text' is not valid UTF-8"
    lists = pa.ListArray.from_arrays([0, 1, 2, 3], texts)
    problem = refusal(save(tmp_path, {"text": TEXTS, "label": lists}, task="multi_label"))
    assert problem.problem == "line 2: 'label' is not valid UTF-8"


@pytest.mark.parametrize(
    ("texts", "type_"),
    [
        ([{"en": "a"}] * 3, "struct<en: string>"),
        ([b"a"] * 3, "binary"),
        ([[["a"]]] * 3, "list<element: list<element: string>>"),
        (pa.array([1] * 3, pa.timestamp("s")), "timestamp[ms]"),
    ],
)
def test_other_types_are_refused_by_their_name(tmp_path: Path, texts: Any, type_: str) -> None:
    problem = refusal(save(tmp_path, {"text": texts, "label": ["x", "y", "x"]}))
    assert (problem.field, problem.value) == ("columns.text", type_)
    assert "texts, numbers, or lists of texts" in str(problem.remedy)


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    problem = refusal(save(tmp_path, {"texts": TEXTS, "label": ["x", "y", "x"]}))
    assert (problem.field, problem.remedy) == ("columns.text", "did you mean 'texts'?")


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path: Path) -> None:
    columns = {"text": TEXTS, "label": ["x", "y", "x"], "text.more": TEXTS, "other": [{"a": 1}] * 3}
    assert [row.text for row in rows(save(tmp_path, columns))] == TEXTS


@pytest.mark.parametrize("content", [b"", b"text,label\na,x\n", b"PAR1" * 4])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(content)
    problem = refusal(spec(path))
    assert problem.field == "files.train"
    assert problem.problem.startswith("not a Parquet file that can be read")


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    empty = pa.array([], pa.string())
    assert refusal(save(tmp_path, {"text": empty, "label": empty})).problem == "there is no row in it"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with parquet.ParquetWriter(path, schema, compression="none") as file:
        for group in range(20):  # 40 MB in two row groups of different texts
            texts = [f"{group} {number} " + "a" * 10_000 for number in range(200)]
            file.write_table(pa.table({"text": texts, "label": ["x", "y"] * 100}, schema))
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    for _ in read_rows(path, spec(path)):
        most = max(most, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak + most < 16 << 20


@any_folder
@given(data=st.data())
def test_a_damaged_file_is_rows_or_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    sound = save(tmp_path, {"text": [f"text {n}" for n in range(20)], "label": ["x", "y"] * 10})
    content = bytearray(sound.files["train"].read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        found = rows(spec(damaged))
    except RefusedError:
        return
    assert all(row.text.strip() and isinstance(row.label, str) for row in found)


# -- the same rows in every format -----------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8", exclude_characters="\0|"), min_size=1, max_size=5).filter(
    lambda name: name == name.strip()
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)
labels_of: dict[str, st.SearchStrategy[Any]] = {
    "single_label": names,
    "multi_label": st.lists(names, unique=True, max_size=3).map(tuple),
    "regression": st.floats(-1e15, 1e15),
}


@any_folder
@given(data=st.data(), task=st.sampled_from(sorted(labels_of)))
def test_the_same_rows_read_equal_in_every_format(tmp_path: Path, data: st.DataObject, task: str) -> None:
    made = data.draw(st.lists(st.tuples(texts, texts, labels_of[task]), min_size=1, max_size=6))
    records = [{"text": text, "pair": pair, "label": label} for text, pair, label in made]
    (tmp_path / "jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    parquet.write_table(pa.Table.from_pylist(records, _schema(task)), tmp_path / "parquet")
    _write_csv(tmp_path / "csv", made)
    formats = ["jsonl", "parquet", "csv"]
    if not any(
        character in text + pair + _cell(label) for text, pair, label in made for character in "\t\n\r"
    ):
        lines = ["\t".join([text, pair, _cell(label)]) for text, pair, label in made]
        (tmp_path / "tsv").write_text("\n".join(["text\tpair\tlabel", *lines]), encoding="utf-8")
        formats.append("tsv")
    for form in formats:
        found = rows(spec(tmp_path / form, format=form, task=task, columns={"text_pair": "pair"}))
        assert [(row.text, row.text_pair, row.label) for row in found] == made, form


def _cell(label: Label) -> str:
    if isinstance(label, tuple):
        return "|".join(label)
    return repr(label) if isinstance(label, float) else str(label)


def _write_csv(path: Path, made: list[tuple[str, str, Label]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["text", "pair", "label"])
    writer.writerows((text, pair, _cell(label)) for text, pair, label in made)
    path.write_bytes(out.getvalue().encode())


def _schema(task: str) -> pa.Schema:
    label = {"multi_label": pa.list_(pa.string()), "regression": pa.float64()}.get(task, pa.string())
    return pa.schema({"text": pa.string(), "pair": pa.string(), "label": label})
