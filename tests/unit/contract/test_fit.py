"""Whether recipe, teacher and data go together: each refusal names the field of the job request."""

from typing import Any

import pytest

from mixkd.contract.data_spec import Task
from mixkd.contract.fit import problems
from mixkd.contract.folder import ModelInfo
from mixkd.contract.problems import Problem
from mixkd.contract.rows import DatasetReport, Lengths, SplitReport
from mixkd.contract.spec import DistilSpec

LENGTHS = Lengths(min=1, median=1, p95=1, max=1)


def teacher(labels: list[str] | None = None, **fields: Any) -> ModelInfo:
    return ModelInfo.model_validate(
        {
            "family": "bert",
            "layers": 6,
            "hidden_size": 8,
            "vocab_size": 30,
            "parameters": 1000,
            "max_positions": 64,
            "labels": labels,
        }
        | fields
    )


def data(labels: list[str], rows: int = 10, task: Task = "single_label", **sets: int) -> DatasetReport:
    counts = dict.fromkeys(labels, 1)
    splits = {
        name: SplitReport(rows=count, label_counts=counts, characters=LENGTHS, duplicate_rows=0)
        for name, count in {"train": rows, **sets}.items()
    }
    return DatasetReport(labels=labels, splits=splits, texts_in_two_splits=0, task=task)


SCORES = data([], task="regression")
SEVERAL = data(["a", "b"], task="multi_label")


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


# -- the student -----------------------------------------------------------------------------------------


def only(found: list[Problem]) -> Problem:
    (problem,) = found
    assert problem.remedy
    return problem


def student_problems(
    wanted: dict[str, object], of: ModelInfo, model: ModelInfo | None = None
) -> list[Problem]:
    return problems(recipe(student=wanted), of, data(["a", "b"]), student=model)


def test_a_list_of_layers_is_counted_from_zero() -> None:
    assert student_problems({"layers": [0, 2, 5]}, teacher()) == []
    problem = only(student_problems({"layers": [0, 6]}, teacher()))
    assert (problem.field, problem.value) == ("recipe.student.layers", [0, 6])
    assert problem.problem == "the teacher has the layers 0 to 5"


def test_a_teacher_of_two_layers_can_have_a_student_without_a_wish() -> None:
    assert student_problems({}, teacher(layers=2)) == []
    assert only(student_problems({"layers": 3}, teacher(layers=2))).remedy == "choose 1 to 2"


@pytest.mark.parametrize("student", [{"layers": [0, 1]}, {"layers": 2, "pick": "last"}])
def test_layers_that_share_their_weights_can_only_be_counted(student: dict[str, object]) -> None:
    albert = teacher(family="albert")
    assert student_problems({"layers": 2}, albert) == []
    assert only(student_problems(student, albert)).field == "recipe.student.layers"


def test_another_model_is_needed_and_its_own_size_counts() -> None:
    missing = only(student_problems({"init": "model"}, teacher()))
    assert (missing.field, missing.value) == ("recipe.student.init", "model")
    assert "python -m mixkd run" in str(missing.remedy)

    small = teacher(layers=2, max_positions=32, family="roberta", vocab_size=9)
    (too_short,) = problems(recipe(student={"init": "model"}), teacher(), data(["a", "b"]), student=small)
    assert (too_short.field, too_short.remedy) == ("recipe.max_length", "choose 4 to 32")
    (too_many,) = problems(
        recipe(student={"init": "model", "layers": 3}, max_length=32),
        teacher(),
        data(["a", "b"]),
        student=small,
    )
    assert too_many.problem == "the student's model has 2 layers"


def test_the_origin_of_a_tuned_teacher_must_be_given_and_be_like_it() -> None:
    tuned = teacher(["a", "b"])
    assert student_problems({"init": "origin"}, teacher()) == []  # fine-tuned in the job: it is its own
    assert only(student_problems({"init": "origin"}, tuned)).field == "recipe.student.init"
    assert student_problems({"init": "origin"}, tuned, teacher()) == []
    (problem,) = student_problems({"init": "origin"}, tuned, teacher(hidden_size=16))
    assert problem.field == "student"
    assert "hidden_size is 16, the teacher's 8" in problem.problem


@pytest.mark.parametrize("init", ["teacher", "origin", "config"])
def test_a_model_that_would_not_be_used_is_refused(init: str) -> None:
    assert only(student_problems({"init": init}, teacher(), teacher())).field == "student"


@pytest.mark.parametrize(
    ("student", "field"),
    [
        ({"layers": [0, 1]}, "layers"),
        ({"config": {"vocab_size": 40}}, "config"),
        ({"config": {"pad_token_id": 3}}, "config"),
        ({"config": {"output_attentions": True}}, "config"),
        ({"config": {"return_dict": False}}, "config"),
        ({"config": {"_attn_implementation": "someone/kernel"}}, "config"),
        ({"config": {"num_hidden_layers": 2}, "layers": 2}, "config"),
    ],
)
def test_a_config_that_no_student_can_have(student: dict[str, object], field: str) -> None:
    assert student_problems({"init": "config", "config": {"num_hidden_layers": 2}}, teacher()) == []
    assert only(student_problems({"init": "config", **student}, teacher())).field == f"recipe.student.{field}"


# -- the data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sets", "most"), [({}, 90), ({"validation": 5}, 100)])
def test_more_training_rows_than_there_are(sets: dict[str, int], most: int) -> None:
    rows = data(["a", "b"], 100, **sets)
    assert problems(recipe(train_examples=most), teacher(), rows) == []
    problem = only(problems(recipe(train_examples=most + 1), teacher(), rows))
    assert (problem.field, problem.value) == ("recipe.train_examples", most + 1)
    assert problem.remedy == f"choose 2 to {most}"
    assert ("set aside" in problem.problem) == (not sets)


def test_scores_need_a_teacher_with_one_output() -> None:
    assert problems(recipe(), teacher(["score"]), SCORES) == []
    assert problems(recipe(), teacher(), SCORES) == []
    problem = only(problems(recipe(), teacher(["neg", "pos"]), SCORES))
    assert problem.field == "dataset_id"
    assert "'neg', 'pos'" in problem.problem


@pytest.mark.parametrize("distance", ["kl", "mse_probabilities"])
def test_scores_have_no_probabilities(distance: str) -> None:
    problem = only(problems(recipe(loss={"distance": distance}), teacher(), SCORES))
    assert (problem.field, problem.value) == ("recipe.loss.distance", distance)
    assert problems(recipe(loss={"distance": distance}), teacher(), SEVERAL) == []


def test_scores_cannot_be_smoothed() -> None:
    smoothed = recipe(loss={"label_smoothing": 0.1})
    assert only(problems(smoothed, teacher(), SCORES)).field == "recipe.loss.label_smoothing"
    assert problems(smoothed, teacher(), SEVERAL) == []


def test_only_a_single_label_has_a_weight() -> None:
    balanced = recipe(loss={"class_weights": "balanced"})
    assert problems(balanced, teacher(), data(["a", "b"])) == []
    for report in (SEVERAL, SCORES):
        assert only(problems(balanced, teacher(), report)).field == "recipe.loss.class_weights"


def test_a_weight_must_be_of_a_label_that_there_is() -> None:
    weighted = recipe(loss={"class_weights": {"a": 2, "c": 1}})
    problem = only(problems(weighted, teacher(), data(["a", "b"])))
    assert (problem.field, problem.value) == ("recipe.loss.class_weights", ["c"])
    assert "'a', 'b'" in problem.problem
    assert problems(weighted, teacher(["a", "b", "c"]), data(["a", "b"])) == []  # the head's labels count


def test_f1_is_of_two_labels() -> None:
    assert problems(recipe(), teacher(), data(["a", "b"]), metrics=["f1"]) == []
    problem = only(problems(recipe(), teacher(["a", "b", "c"]), data(["a", "b"]), metrics=["accuracy", "f1"]))
    assert (problem.field, problem.value) == ("data.metrics", "f1")
    assert "'a', 'b', 'c'" in problem.problem
