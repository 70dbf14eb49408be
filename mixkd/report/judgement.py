"""How teacher, student and baselines answered one set. N rows, C outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mixkd.contract.data_spec import MetricName, Task
from mixkd.contract.strict import Strict
from mixkd.metrics import answered, labelled, pearson, row_losses, tally
from mixkd.report.bootstrap import Bootstrapped, Interval, bootstrap
from mixkd.report.calibration import calibration_errors

MOST_CLASSES = 100  # of a confusion matrix that anybody would read

Answers = Mapping[str, NDArray[np.floating[Any]]]
"""Logits or scores by model, (N, C) each: `teacher`, `student`, and baselines."""


class ModelScores(Strict):
    """How well a model does on a set."""

    scores: dict[MetricName, Interval] = Field(description="of each metric")
    loss: float = Field(description="mean cross-entropy; binary of several labels, squared error of scores")
    ece: float | None = Field(
        description="expected calibration error, 15 bins; of several labels their mean; null: a regression"
    )


class Agreement(Strict):
    """How far the student answers as the teacher does, right or wrong."""

    same_answer: float | None = Field(description="share of rows; null: a regression")
    pearson: float | None = Field(description="of the scores; null: not a regression")
    mean_absolute_difference: float | None = Field(description="of the scores; null: not a regression")


class ClassScores(Strict):
    """How well a model knows one class; 0 where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float
    ece: float | None = Field(description="of one label of several; else null")


class ClassCard(Strict):
    """One class, or one label of several."""

    label: str
    rows: int = Field(description="that have it")
    teacher: ClassScores
    student: ClassScores


class LabelCounts(Strict):
    """How often a label was given and due."""

    label: str
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


class Confusion(Strict):
    """What the student takes for what."""

    matrix: list[list[int]] | None = Field(
        description="a row for each true class, a column for each answer, in the order of `data.labels`"
    )
    by_label: list[LabelCounts] | None = Field(description="of several labels")
    left_out: str | None = Field(description="why there is neither")


class SetCard(Strict):
    """One set of rows."""

    rows: int
    teacher: ModelScores
    student: ModelScores
    difference: dict[MetricName, Interval] = Field(description="student − teacher, on the same resamples")
    agreement: Agreement
    classes: list[ClassCard] = Field(description="in the order of `data.labels`; of a regression none")
    confusion: Confusion


class BaselineScores(ModelScores):
    """How well a baseline does on a set."""

    difference: dict[MetricName, Interval] = Field(description="student − baseline, on the same resamples")


def judge_set(
    answers: Answers,
    targets: NDArray[np.floating[Any]],
    task: Task,
    metrics: Sequence[MetricName],
    labels: Sequence[str],
    *,
    rng: np.random.Generator,
) -> tuple[SetCard, dict[str, BaselineScores]]:
    """The card of a set, and the scores of whatever else than `teacher` and `student` answered it."""
    found = bootstrap(answers, targets, task, metrics, rng=rng)
    scores = {model: _scores(model, values, targets, task, found) for model, values in answers.items()}
    card = SetCard(
        rows=len(targets),
        teacher=scores["teacher"],
        student=scores["student"],
        difference=found.differences("student", "teacher"),
        agreement=agreement(answers["student"], answers["teacher"], task),
        classes=[] if task == "regression" else _classes(answers, targets, task, labels),
        confusion=confusion(answers["student"], targets, task, labels),
    )
    baselines = {
        model: BaselineScores(**dict(scores[model]), difference=found.differences("student", model))
        for model in answers
        if model not in {"teacher", "student"}
    }
    return card, baselines


def _scores(
    model: str,
    answers: NDArray[np.floating[Any]],
    targets: NDArray[np.floating[Any]],
    task: Task,
    found: Bootstrapped,
) -> ModelScores:
    errors = calibration_errors(answers, targets, task)
    return ModelScores(
        scores=found.intervals(model),
        loss=float(row_losses(answers, targets, task).mean()),
        ece=float(errors.mean()) if len(errors) else None,
    )


def agreement(
    student: NDArray[np.floating[Any]], teacher: NDArray[np.floating[Any]], task: Task
) -> Agreement:
    """How far two models give the same answers, (N, C)."""
    ours, theirs = answered(student, task), answered(teacher, task)
    if task == "regression":
        return Agreement(
            same_answer=None,
            pearson=float(pearson(theirs, ours)),
            mean_absolute_difference=float(np.abs(ours - theirs).mean()),
        )
    same = ours == theirs if ours.ndim == 1 else (ours == theirs).all(-1)
    return Agreement(same_answer=float(same.mean()), pearson=None, mean_absolute_difference=None)


def _classes(
    answers: Answers, targets: NDArray[np.floating[Any]], task: Task, labels: Sequence[str]
) -> list[ClassCard]:
    teacher, student = (class_scores(answers[name], targets, task) for name in ("teacher", "student"))
    cases = tally(labelled(targets, task), labelled(targets, task), classes=len(labels))[1]
    return [
        ClassCard(label=label, rows=int(rows), teacher=theirs, student=ours)
        for label, rows, theirs, ours in zip(labels, cases, teacher, student, strict=True)
    ]


def class_scores(
    answers: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], task: Task
) -> list[ClassScores]:
    """How well a model knows each class or label. Both (N, C)."""
    hits, cases, claims = tally(labelled(targets, task), answered(answers, task), classes=answers.shape[1])
    errors: list[float | None] = [None] * answers.shape[1]
    if task == "multi_label":
        errors = [float(error) for error in calibration_errors(answers, targets, task)]
    return [
        ClassScores(
            precision=_share(hit, claim),
            recall=_share(hit, case),
            f1=_share(2 * hit, case + claim),
            ece=error,
        )
        for hit, case, claim, error in zip(hits, cases, claims, errors, strict=True)
    ]


def confusion(
    answers: NDArray[np.floating[Any]],
    targets: NDArray[np.floating[Any]],
    task: Task,
    labels: Sequence[str],
) -> Confusion:
    """What a model takes for what. Both (N, C)."""
    truth, said = labelled(targets, task), answered(answers, task)
    if task == "regression":
        return Confusion(matrix=None, by_label=None, left_out="a regression has no classes")
    if task == "multi_label":
        hits, cases, claims = tally(truth, said)
        counts = [
            _label_counts(label, hit, case, claim, rows=len(truth))
            for label, hit, case, claim in zip(labels, hits, cases, claims, strict=True)
        ]
        return Confusion(matrix=None, by_label=counts, left_out=None)
    size = len(labels)
    if size > MOST_CLASSES:
        reason = f"{size} classes: more than the {MOST_CLASSES} that a matrix is written for"
        return Confusion(matrix=None, by_label=None, left_out=reason)
    matrix = np.bincount(truth * size + said, minlength=size**2).reshape(size, size)
    return Confusion(matrix=matrix.tolist(), by_label=None, left_out=None)


def _label_counts(label: str, hits: float, cases: float, claims: float, *, rows: int) -> LabelCounts:
    return LabelCounts(
        label=label,
        true_positives=int(hits),
        false_positives=int(claims - hits),
        false_negatives=int(cases - hits),
        true_negatives=int(rows - cases - claims + hits),
    )


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
