"""Whether recipe, teacher and data go together: each refusal names the field of the job request."""

import pytest

from mixkd.contract.fit import problems
from mixkd.contract.folder import ModelInfo
from mixkd.contract.rows import DatasetReport, Lengths, SplitReport
from mixkd.contract.spec import DistilSpec

LENGTHS = Lengths(min=1, median=1, p95=1, max=1)


def teacher(labels: list[str] | None = None) -> ModelInfo:
    return ModelInfo(
        family="bert",
        layers=6,
        hidden_size=8,
        vocab_size=30,
        parameters=1000,
        max_positions=64,
        labels=labels,
    )


def data(labels: list[str], rows: int = 10) -> DatasetReport:
    counts = dict.fromkeys(labels, 1)
    split = SplitReport(rows=rows, label_counts=counts, characters=LENGTHS, duplicate_rows=0)
    return DatasetReport(labels=labels, splits={"train": split}, texts_in_two_splits=0)


def recipe(**fields: object) -> DistilSpec:
    return DistilSpec.model_validate({"max_length": 64} | fields)


@pytest.mark.parametrize("layers", [1, 6])
def test_what_fits_has_no_problems(layers: int) -> None:
    assert problems(recipe(student={"layers": layers}), teacher(), data(["a", "b"])) == []


def test_more_student_layers_than_the_teacher_has() -> None:
    (problem,) = problems(recipe(student={"layers": 9}), teacher(), data(["a", "b"]))
    assert (problem.field, problem.value) == ("recipe.student.layers", 9)
    assert problem.problem == "the teacher has 6 layers"
    assert problem.remedy == "choose 1 to 6"


def test_longer_texts_than_the_teacher_reads() -> None:
    (problem,) = problems(recipe(max_length=65), teacher(), data(["a", "b"]))
    assert (problem.field, problem.value) == ("recipe.max_length", 65)


def test_never_teaching_needs_a_head() -> None:
    (problem,) = problems(recipe(teach={"when": "never"}), teacher(), data(["a", "b"]))
    assert (problem.field, problem.value) == ("recipe.teach.when", "never")
    assert problems(recipe(teach={"when": "never"}), teacher(["a", "b", "c"]), data(["a", "b"])) == []


@pytest.mark.parametrize("when", ["auto", "never"])
def test_a_label_outside_the_teachers_shows_both_lists(when: str) -> None:
    (problem,) = problems(recipe(teach={"when": when}), teacher(["neg", "pos"]), data(["pos", "positive"]))
    assert (problem.field, problem.value) == ("dataset_id", ["positive"])
    assert "'pos', 'positive'" in problem.problem
    assert "'neg', 'pos'" in problem.problem
    assert problem.remedy is not None
    assert "always" in problem.remedy


def test_a_new_head_takes_any_labels() -> None:
    assert problems(recipe(teach={"when": "always"}), teacher(["neg", "pos"]), data(["a", "b"])) == []


def test_a_single_row_cannot_be_mixed() -> None:
    (problem,) = problems(recipe(), teacher(), data(["a", "b"], rows=1))
    assert problem.field == "dataset_id"


def test_a_validation_part_must_be_possible() -> None:
    report = data(["a", "b"], rows=2)
    train = report.splits["train"].model_copy(update={"duplicate_rows": 1})
    alike = report.model_copy(update={"splits": {"train": train}})
    (problem,) = problems(recipe(), teacher(), alike)
    assert "set aside" in problem.problem
    with_file = alike.model_copy(update={"splits": {"train": train, "validation": train}})
    assert problems(recipe(), teacher(), with_file) == []


def test_all_problems_are_found_at_once() -> None:
    found = problems(recipe(student={"layers": 9}, max_length=65), teacher(["x"]), data(["a", "b"]))
    assert [p.field for p in found] == ["recipe.student.layers", "recipe.max_length", "dataset_id"]
