"""Labels of every task: what a row may say, what it means, and what the report shows of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mixkd.contract import readers
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import DatasetReport, Label, check_dataset, read_rows


def lines(*labels: object) -> bytes:
    """A text and each label as JSON lines."""
    return b"".join(
        json.dumps({"text": f"text {n}", "label": label}).encode() + b"\n" for n, label in enumerate(labels)
    )


def cells(*labels: str) -> bytes:
    return "".join(f"text {n}\t{label}\n" for n, label in enumerate(labels)).encode()


def spec(folder: Path, content: bytes, **fields: Any) -> DataSpec:
    path = folder / "train"
    path.write_bytes(content)
    return DataSpec.model_validate({"files": {"train": path}, **fields})


def labels(data: DataSpec) -> list[Label | None]:
    return [row.label for row in read_rows(data.files["train"], data)]


def refusal(data: DataSpec) -> Problem:
    with pytest.raises(RefusedError) as caught:
        check_dataset(data)
    (problem,) = caught.value.problems
    return problem


# -- several labels --------------------------------------------------------------------------------------


def test_several_labels_are_a_list_or_a_cell_and_may_be_none(tmp_path: Path) -> None:
    read: list[Label | None] = [("b", "a"), (), ("1",)]
    data = spec(tmp_path, lines(["b", "a"], [], [1]), task="multi_label")
    assert labels(data) == read
    report = check_dataset(data)
    assert report.labels == ["1", "a", "b"]
    assert report.splits["train"].label_counts == {"1": 1, "a": 1, "b": 1}
    assert (report.task, report.splits["train"].rows) == ("multi_label", 3)

    table = b"text\tlabel\n" + cells("b|a", "", "1")
    assert labels(spec(tmp_path, table, task="multi_label", format="tsv")) == read
    table = table.replace(b"|", b";")
    assert labels(spec(tmp_path, table, task="multi_label", format="tsv", label_separator=";")) == read


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ("a", "'label' is not a list but a text"),
        (1, "'label' is not a list but a number"),
        (None, "'label' is missing"),
        (["a", "b", "a"], "'label' names 'a' twice"),
        (["a", None], "'label' is missing"),
        (["a", ""], "'label' is empty"),
        (["a", ["b"]], "'label' is not a text but a list"),
        (["a", " b"], "white space around it"),
    ],
)
def test_what_is_no_list_of_labels_is_a_bad_row(tmp_path: Path, label: object, why: str) -> None:
    problem = refusal(spec(tmp_path, lines(["a"], label, ["b"]), task="multi_label"))
    assert problem.value == [2]
    assert why in problem.problem


def test_an_empty_name_between_separators_is_a_bad_row(tmp_path: Path) -> None:
    problem = refusal(spec(tmp_path, b"text\tlabel\n" + cells("a||b", "a"), task="multi_label", format="tsv"))
    assert problem.problem == "line 2: 'label' is empty"


def test_names_that_become_one_label_are_named_twice(tmp_path: Path) -> None:
    names = {"0": "bad", "1": "bad", "2": "good"}
    problem = refusal(spec(tmp_path, lines([0, 1], [2]), task="multi_label", label_names=names))
    assert problem.problem == "line 1: 'label' names 'bad' twice"


def test_rows_that_all_have_the_same_labels_teach_nothing(tmp_path: Path) -> None:
    problem = refusal(spec(tmp_path, lines(["a", "b"], ["b", "a"]), task="multi_label"))
    assert "the same labels" in problem.problem
    assert problem.remedy == "send rows of other labels"


# -- scores ----------------------------------------------------------------------------------------------


def test_scores_are_numbers_and_their_range_is_reported(tmp_path: Path) -> None:
    data = spec(tmp_path, lines(3, 0.25, -1e3), task="regression")
    assert labels(data) == [3.0, 0.25, -1000.0]
    report = check_dataset(data)
    assert (report.task, report.labels, report.score_range) == ("regression", [], (-1000.0, 3.0))
    assert report.splits["train"].label_counts == {}
    table = b"text\tlabel\n" + cells("3", ".25", "-1e+3")
    assert labels(spec(tmp_path, table, task="regression", format="tsv")) == [3.0, 0.25, -1000.0]


@pytest.mark.parametrize("label", ["3", True, None, [3], float("nan"), float("inf"), 10**400, 1e16])
def test_what_is_no_finite_number_is_a_bad_row(tmp_path: Path, label: object) -> None:
    problem = refusal(spec(tmp_path, lines(1, label, 2), task="regression"))
    assert problem.value == [2]
    assert "'label' is" in problem.problem


@pytest.mark.parametrize("label", ["nan", "inf", "1_0", "1,5", " 1", "0x10", "١", "", "1e99999"])
def test_a_cell_that_python_alone_would_take_for_a_number_is_a_bad_row(tmp_path: Path, label: str) -> None:
    problem = refusal(spec(tmp_path, b"text\tlabel\n" + cells("1", label), task="regression", format="tsv"))
    assert problem.value == [3]


def test_a_score_outside_the_range_is_a_bad_row(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"task": "regression", "score_range": (0, 5)}
    assert labels(spec(tmp_path, lines(0, 5), **fields)) == [0.0, 5.0]
    problem = refusal(spec(tmp_path, lines(0, 5.5), **fields))
    assert problem.problem == "line 2: 'label' is 5.5, outside `score_range` from 0 to 5"


def test_equal_scores_teach_nothing(tmp_path: Path) -> None:
    assert "the same score" in refusal(spec(tmp_path, lines(2, 2.0), task="regression")).problem


# -- names -----------------------------------------------------------------------------------------------


def test_given_labels_decide_the_order_and_what_is_a_label(tmp_path: Path) -> None:
    report = check_dataset(spec(tmp_path, lines("a", "b"), labels=["c", "b", "a"]))
    assert report.labels == ["c", "b", "a"]
    problem = refusal(spec(tmp_path, lines("a", "d", "b"), labels=["c", "b", "a"]))
    assert problem.problem == "line 2: 'label' is 'd'; `labels` has 'c', 'b', 'a'"


def test_an_evaluation_set_may_have_a_given_label_that_training_lacks(tmp_path: Path) -> None:
    data = spec(tmp_path, lines("a", "b"), labels=["a", "b", "c"])
    (tmp_path / "test").write_bytes(lines("c"))
    report = check_dataset(data.model_copy(update={"files": {**data.files, "test": tmp_path / "test"}}))
    assert report.splits["test"].label_counts == {"c": 1}


def test_numbers_of_the_file_get_their_names(tmp_path: Path) -> None:
    names = {"0": "negative", "1": "positive"}
    assert labels(spec(tmp_path, lines(1, "0"), label_names=names)) == ["positive", "negative"]
    problem = refusal(spec(tmp_path, lines(1, 2, 0), label_names=names))
    assert problem.problem == "line 2: 'label' is '2'; `label_names` has '0', '1'"


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": ["a", " b"]},
        {"labels": ["a", ""]},
        {"label_names": {"0": "a\0"}},
        {"label_names": {"0": "a"}, "task": "regression"},
        {"header": False},
        {"bad_rows": "skip", "format": "csv"},  # a stray quote takes good rows with it
        {"files": {"Train": "x"}},
    ],
)
def test_a_description_that_no_file_could_meet_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DataSpec.model_validate({"files": {"train": "x"}, **fields})


# -- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "mark"), [("csv", b","), ("tsv", b"\t")])
def test_columns_without_a_header_are_numbered(tmp_path: Path, form: str, mark: bytes) -> None:
    content = b"gj\t1\t\ta text\ngj\t0\t*\tanother\n".replace(b"\t", mark)
    fields: dict[str, Any] = {"format": form, "header": False}
    data = spec(tmp_path, content, columns={"text": "3", "label": "1"}, **fields)
    rows = list(read_rows(data.files["train"], data))
    assert [(row.line, row.text, row.label) for row in rows] == [(1, "a text", "1"), (2, "another", "0")]

    problem = refusal(spec(tmp_path, content, **fields, columns={"text": "4", "label": "1"}))
    assert problem.field == "columns.text"
    assert "its columns are '0', '1', '2', '3'" in problem.problem
    short = refusal(spec(tmp_path, content + b"gj" + mark + b"1\n", columns=data.columns, **fields))
    assert short.problem == "line 3: 2 cells where the first row has 4"


def test_sets_of_any_name_are_reported_after_the_usual_ones(tmp_path: Path) -> None:
    content = lines("a", "b")
    files = {}
    for name in ("hard_cases", "test", "train"):
        files[name] = tmp_path / name
        files[name].write_bytes(content)
    report = check_dataset(DataSpec(files=files))
    assert list(report.splits) == ["train", "test", "hard_cases"]
    assert report.texts_in_two_splits == 2
    files["hard_cases"].write_bytes(lines("c"))
    with pytest.raises(RefusedError, match=r"files\.hard_cases: labels that the training file does not have"):
        check_dataset(DataSpec(files=files))


def test_texts_alone_need_no_label_column(tmp_path: Path) -> None:
    data = spec(tmp_path, b'{"text": "a"}\n{"text": "b", "label": []}\n')
    rows = list(read_rows(data.files["train"], data, labelled=False))
    assert [(row.text, row.label) for row in rows] == [("a", None), ("b", None)]


def test_bad_rows_are_skipped_where_that_is_asked_for(tmp_path: Path) -> None:
    data = spec(tmp_path, lines(*"ab" * 10) + b"no\n" + lines("a"), bad_rows="skip")
    assert len(labels(data)) == 21
    assert check_dataset(data).skipped_rows == {"train": 1}
    many = refusal(spec(tmp_path, lines(*"ab" * 10) + b"no\n" * 3, bad_rows="skip"))
    assert many.problem.startswith("3 bad rows: line 21")


def test_what_makes_the_rest_unreadable_is_never_skipped(tmp_path: Path) -> None:
    content = (
        b"text\tlabel\n" + cells(*"ab" * 10) + b"x" * (readers.MAX_ROW_BYTES + 1) + b"\tb\n" + cells("a")
    )
    data = spec(tmp_path, content, format="tsv", bad_rows="skip")
    assert "line 22: longer than" in refusal(data).problem
    with pytest.raises(RefusedError, match="line 22: longer than"):
        labels(data)


def test_the_report_of_an_older_release_is_one_of_a_single_label() -> None:
    old = {
        "labels": ["a", "b"],
        "splits": {
            "train": {
                "rows": 2,
                "label_counts": {"a": 1, "b": 1},
                "characters": {"min": 1, "median": 1, "p95": 1, "max": 1},
                "duplicate_rows": 0,
            }
        },
        "texts_in_two_splits": 0,
    }
    assert DatasetReport.model_validate(old).task == "single_label"
