"""The report card: its numbers worked out by hand on a few rows, and its files whole or not there."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mixkd.augment.card import AugmentCard
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.spec import DistilSpec
from mixkd.report import build as reports
from mixkd.report.judgement import agreement, class_scores, confusion, judge_set
from mixkd.report.provenance import folder_digest
from mixkd.report.schema import Report
from mixkd.report.variant import describe, student_from
from tests.support.report_card import EYE, SETS, STUDENT, TEACHER, TRUTH, make_report, outcome, points


def test_a_class_by_hand() -> None:
    red, green, blue = class_scores(STUDENT, TRUTH, "single_label")
    assert (red.precision, red.recall, red.f1) == (1, 0.5, pytest.approx(2 / 3))
    assert (green.precision, green.recall, green.f1) == (pytest.approx(1 / 3), 1, 0.5)
    assert (blue.precision, blue.recall, blue.f1) == (0, 0, 0)  # never answered: nothing to divide by


def test_the_confusion_has_truth_in_rows_and_answers_in_columns() -> None:
    found = confusion(STUDENT, TRUTH, "single_label", ["red", "green", "blue"])
    assert found.matrix == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert (found.by_label, found.left_out) == (None, None)


def test_the_confusion_of_several_labels_is_a_count_for_each() -> None:
    truth = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    said = np.array([[2.0, 2.0], [-2.0, -2.0], [-2.0, 2.0]])
    a, b = confusion(said, truth, "multi_label", ["a", "b"]).by_label or []
    assert (a.true_positives, a.false_positives, a.false_negatives, a.true_negatives) == (1, 0, 1, 1)
    assert (b.true_positives, b.false_positives, b.false_negatives, b.true_negatives) == (1, 1, 0, 1)


@pytest.mark.parametrize("classes", [100, 101])
def test_a_confusion_that_nobody_would_read_says_so(classes: int) -> None:
    answers = np.eye(classes)
    found = confusion(answers, answers, "single_label", [f"c{n}" for n in range(classes)])
    assert (found.matrix is None) == (classes > 100)
    assert (found.left_out is None) == (classes <= 100)
    assert confusion(answers[:, :1], answers[:, :1], "regression", ["score"]).left_out


def test_agreement_is_with_the_teacher_right_or_wrong() -> None:
    assert agreement(STUDENT, TEACHER, "single_label").same_answer == 0.75
    labels = agreement(np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]]), "multi_label")
    assert labels.same_answer == 0.5
    scores = agreement(np.array([[1.0], [2.0], [4.0]]), np.array([[2.0], [3.0], [5.0]]), "regression")
    assert scores.same_answer is None
    assert (scores.pearson, scores.mean_absolute_difference) == (pytest.approx(1), 1)


def test_a_set_has_scores_differences_and_baselines_on_the_same_rows() -> None:
    answers = {"teacher": TEACHER, "student": STUDENT, "kd": TEACHER}
    rng = np.random.default_rng(0)
    card, baselines = judge_set(
        answers, TRUTH, "single_label", ["accuracy"], ["red", "green", "blue"], rng=rng
    )
    assert card.teacher.scores["accuracy"].value == 0.75
    assert card.student.scores["accuracy"].value == 0.5
    assert card.difference["accuracy"].value == -0.25
    assert card.student.scores["accuracy"].low < 0.5 < card.student.scores["accuracy"].high
    assert [each.rows for each in card.classes] == [2, 1, 1]
    assert card.student.ece == pytest.approx(np.exp(3) / (np.exp(3) + 2) - 0.5)
    assert baselines["kd"].difference == card.difference  # this baseline answers as the teacher does
    assert set(baselines) == {"kd"}


# -- the whole card ----------------------------------------------------------------------------------------

Build = Callable[..., Report]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return partial(make_report, tmp_path)


def test_the_student_over_the_teacher(build: Build) -> None:
    compared = build().comparison
    assert (compared.metric, compared.kept) == ("accuracy", pytest.approx(0.5 / 0.75))
    assert (compared.parameters, compared.bytes, compared.latency, compared.throughput) == (0.5, 0.5, 0.5, 1)


def test_nothing_is_kept_of_a_teacher_that_knows_nothing(build: Build) -> None:
    wrong = np.roll(TRUTH, 1, axis=1)
    answers = {name: {"teacher": wrong, "student": STUDENT} for name in SETS}
    assert build(answers_by_set=answers).comparison.kept is None


def test_the_generalisation_gap_is_train_minus_validation_loss(build: Build) -> None:
    report = build()
    gap = report.generalisation_gap["student"]
    fit = np.log(1 + 2 * np.exp(-2))  # of 2 · one-hot
    wrong = 2 * np.log(1 + 2 * np.exp(-3)) + 2 * np.log(2 + np.exp(3))  # two right, two wrong
    assert gap.train_loss == pytest.approx(fit)
    assert gap.validation_loss == pytest.approx(wrong / 4)
    assert gap.gap == pytest.approx(fit - wrong / 4)
    assert report.sets["validation"].student.loss == pytest.approx(wrong / 4)
    assert set(report.sets) == {"validation", "test"}


def test_a_baseline_is_compared_on_every_set(build: Build) -> None:
    answers = {name: {"teacher": TEACHER, "student": STUDENT, "finetune": TRUTH} for name in SETS}
    report = build(answers_by_set=answers, baselines={"finetune": outcome()})
    card = report.baselines["finetune"]
    assert set(card.sets) == {"validation", "test"}
    assert card.sets["test"].difference["accuracy"].value == -0.5
    assert "finetune" in report.generalisation_gap


def test_one_seed_gives_one_report_and_every_set_its_own_resamples(build: Build) -> None:
    assert build() == build()
    rng = np.random.default_rng(0)
    truth = EYE[rng.integers(3, size=200)]
    answers = {"teacher": truth + rng.normal(size=truth.shape), "student": rng.normal(size=truth.shape)}
    many = partial(
        build, targets_by_set=dict.fromkeys(SETS, truth), answers_by_set=dict.fromkeys(SETS, answers)
    )
    sets = many().sets
    assert sets["test"] != sets["validation"]
    assert sets["test"] != many({"seed": 1}).sets["test"]


def test_a_regression_is_in_its_own_units(build: Build) -> None:
    truth = np.array([[1.0], [2.0], [4.0], [5.0]])
    answers = {"teacher": truth + 0.5, "student": truth[::-1]}
    report = build(
        data={"task": "regression"},
        labels=["score"],
        targets_by_set=dict.fromkeys(SETS, truth),
        answers_by_set=dict.fromkeys(SETS, answers),
    )
    card = report.sets["test"]
    assert card.teacher.scores["rmse"].value == 0.5
    assert card.student.scores["pearson"].value == pytest.approx(-1)
    assert (card.classes, card.student.ece, card.confusion.matrix) == ([], None, None)
    assert report.comparison.kept == pytest.approx(-1)
    of_errors = build(
        data={"task": "regression", "metrics": ["rmse"]},
        labels=["score"],
        targets_by_set=dict.fromkeys(SETS, truth),
        answers_by_set=dict.fromkeys(SETS, answers),
    )
    assert of_errors.comparison.kept is None  # a larger error is not more of anything


def test_it_reads_back_as_it_was_written_and_no_path_is_in_it(build: Build, tmp_path: Path) -> None:
    report = build(
        augmented=[
            AugmentCard(kind="unlabelled", made=3, dropped={}, notes=(), settings={}, made_from={}, key="k")
        ]
    )
    (tmp_path / "out").mkdir()
    reports.write_report(report, tmp_path / "out")
    text = (tmp_path / "out" / "report.json").read_text()
    assert Report.model_validate_json(text) == report
    assert json.loads(text)["format"] == 2
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or str(tmp_path) not in file.read_text(), file.name


def test_its_files_are_there_whole_and_readable(build: Build, tmp_path: Path) -> None:
    reports.write_report(build(taught=outcome(), curves=points("teach") + points("distil")), tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    pictures = {
        f"curves/{phase}-{what}.svg" for phase in ("teach", "distil") for what in ("loss", "validation")
    }
    assert {"report.json", "README.md", *pictures} <= found
    assert not [name for name in found if name.startswith(".") or "/." in name]  # no scratch file is left
    for name in ("report.json", "README.md", *pictures):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


# -- where it comes from -----------------------------------------------------------------------------------


def test_a_folders_digest_knows_names_and_bytes_of_what_is_loaded_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("1")
    (tmp_path / "config.json").write_text("2")
    first = folder_digest(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("3")
    (tmp_path / "README.md").write_text("4")
    assert folder_digest(tmp_path) == first
    (tmp_path / "vocab.txt").rename(tmp_path / "vocab.json")
    renamed = folder_digest(tmp_path)
    (tmp_path / "vocab.json").write_text("5")
    assert len({first, renamed, folder_digest(tmp_path)}) == 3


VARIANTS: list[tuple[dict[str, object], str, str]] = [
    ({"mixup": {"partner": "set", "ratio": 2}}, "partner", "any row of the training set, 2 mixed"),
    ({"mixup": {"lambda_per": "batch", "alpha": 1}}, "weight", "λ ~ Beta(1, 1), one for a whole batch"),
    ({"preset": "finetune"}, "mixed_at", "nothing is mixed"),
    ({"preset": "finetune"}, "distance", "the teacher is not asked"),
    ({"preset": "kd", "loss": {"distance": "kl", "temperature": 2}}, "distance", "T = 2"),
    ({"loss": {"sm_weight": 0.5}}, "loss", "L_MLE + 0.5 · L_SM + L_TMKD"),
    ({"loss": {"label_smoothing": 0.1}}, "targets", "0.1 of each spread evenly"),
    ({"loss": {"class_weights": "balanced"}}, "class_weights", "the rarer the heavier"),
    ({"runtime": {"precision": "bf16"}}, "precision", "bf16"),
    ({"distil": {"schedule": "cosine"}}, "optimiser", "then a cosine to zero"),
]


@pytest.mark.parametrize(("recipe", "name", "words"), VARIANTS)
def test_every_option_is_told_in_words(recipe: dict[str, object], name: str, words: str) -> None:
    variant = describe(
        DistilSpec.model_validate(recipe),
        DataSpec(files={"train": Path("train.jsonl")}),
        fine_tuned=True,
        layers=3,
        mixed_at={"teacher": "word", "student": "word"},
    )
    assert words in getattr(variant, name)


def test_where_two_models_mix_in_different_places_both_are_told() -> None:
    variant = describe(
        DistilSpec(),
        DataSpec(files={"train": Path("train.jsonl")}),
        fine_tuned=False,
        layers=3,
        mixed_at={"teacher": "embedding", "student": "word"},
    )
    assert variant.mixed_at.startswith("teacher: the embedding block's output")
    assert "student: word embeddings" in variant.mixed_at


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({}, "the teacher, fine-tuned in this job: embeddings, first 3 encoder layers, its head"),
        ({"layers": [0, 5]}, "encoder layers 0, 5 (counted from 0)"),
        ({"layers": 3, "pick": "even"}, "3 evenly spaced encoder layers"),
        ({"init": "origin"}, "before it was fine-tuned"),
        ({"init": "model"}, "another pre-trained model, with its own tokenizer: embeddings, all 3 encoder"),
        ({"init": "config", "config": {"hidden_size": 8}}, "with 3 layers, hidden_size 8"),
    ],
)
def test_what_a_student_started_from_is_told(student: dict[str, object], words: str) -> None:
    recipe = DistilSpec.model_validate({"student": student})
    assert words in student_from(recipe.student, 3, fine_tuned=True)
