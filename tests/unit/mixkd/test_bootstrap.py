"""Intervals that cover what they say, and calibration errors worked out by hand."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkd.contract.data_spec import METRICS, MetricName, Task
from mixkd.report.bootstrap import RESAMPLES, Bootstrapped, bootstrap, draw_counts
from mixkd.report.calibration import calibration_errors, expected_calibration_error

TASKS: tuple[Task, ...] = ("single_label", "multi_label", "regression")


def right_with(share: float, rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a model that is right with a probability of `share`, and the targets: (N, 2)."""
    truth = rng.integers(2, size=rows)
    said = np.where(rng.random(rows) < share, truth, 1 - truth)
    return np.eye(2)[said], np.eye(2)[truth]


def rounds_of(
    share: float, rows: int, resamples: int, seed: int, task: Task = "single_label"
) -> Bootstrapped:
    rng = np.random.default_rng(seed)
    answers, targets = right_with(share, rows, rng)
    other, _ = right_with(share, rows, rng)
    return bootstrap(
        {"student": answers, "teacher": other}, targets, task, ["accuracy"], rng=rng, resamples=resamples
    )


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_an_interval_covers_the_truth_about_95_times_of_100(share: float) -> None:
    trials = 400
    covered = 0
    for seed in range(trials):
        interval = rounds_of(share, 200, 300, seed).intervals("student")["accuracy"]
        covered += interval.low <= share <= interval.high
    assert 0.91 <= covered / trials <= 0.98


def test_the_interval_of_a_difference_covers_it_and_is_paired() -> None:
    """Two models that err on nearly the same rows differ by less than either's own interval says."""
    trials, covered = 200, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        teacher, targets = right_with(0.8, 300, rng)
        flipped = rng.random(300) < 0.05  # the student turns 5 % of the answers around
        student = np.where(flipped[:, None], 1 - teacher, teacher)
        found = bootstrap(
            {"student": student, "teacher": teacher}, targets, "single_label", ["accuracy"],
            rng=rng, resamples=300,
        )  # fmt: skip
        difference, alone = found.differences("student", "teacher")["accuracy"], found.intervals("student")
        covered += difference.low <= -0.03 <= difference.high  # 5 % of right ones lost, of wrong ones won
        assert difference.high - difference.low < 0.75 * (alone["accuracy"].high - alone["accuracy"].low)
    assert 0.9 <= covered / trials <= 0.99


@pytest.mark.parametrize("task", TASKS)
def test_a_model_differs_from_itself_by_exactly_nothing(task: Task) -> None:
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(50, 1 if task == "regression" else 3)).astype(np.float32)
    targets = answers + rng.normal(size=answers.shape)
    if task != "regression":
        targets = np.eye(3)[targets.argmax(-1)]
    found = bootstrap({"a": answers, "b": answers.copy()}, targets, task, METRICS[task], rng=rng)
    assert set(found.differences("a", "b")) == set(METRICS[task])
    for difference in found.differences("a", "b").values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_one_seed_gives_one_interval_and_another_seed_another() -> None:
    def interval(seed: int) -> object:
        answers, targets = right_with(0.8, 100, np.random.default_rng(0))
        rng = np.random.default_rng(seed)
        found = bootstrap({"student": answers}, targets, "single_label", ["macro_f1"], rng=rng)
        return found.intervals("student")

    assert interval(1) == interval(1)
    assert interval(1) != interval(2)


def test_resamples_that_are_scored_in_portions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rounds_of(0.8, 40, 30, seed=3)
    monkeypatch.setattr("mixkd.report.bootstrap._AT_ONCE", 7 * 40)  # 30 resamples as 7, 7, 7, 7, 2
    portions = rounds_of(0.8, 40, 30, seed=3)
    assert portions.intervals("student") == whole.intervals("student")
    assert portions.resampled["student"]["accuracy"].shape == (30,)


@given(st.integers(1, 40), st.integers(1, 5))
def test_a_resample_has_as_many_rows_as_the_set(rows: int, resamples: int) -> None:
    counts = draw_counts(rows, resamples, np.random.default_rng(0))
    assert counts.shape == (resamples, rows)
    assert (counts.sum(-1) == rows).all()


@pytest.mark.parametrize(
    ("task", "metric"),
    [("single_label", "macro_f1"), ("single_label", "matthews"), ("regression", "spearman")],
)
def test_ten_thousand_rows_take_seconds(task: Task, metric: MetricName) -> None:
    rng = np.random.default_rng(0)
    answers = rng.normal(size=(10_000, 1 if task == "regression" else 50))
    targets = rng.normal(size=answers.shape) if task == "regression" else np.eye(50)[answers.argmax(-1)]
    started = time.perf_counter()
    bootstrap({"student": answers}, targets, task, [metric], rng=rng, resamples=RESAMPLES)
    assert time.perf_counter() - started < 10  # 0.2 to 1 on one idle core


# -- calibration -------------------------------------------------------------------------------------------


def test_the_calibration_error_of_a_few_answers_by_hand() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 0.30])
    right = np.array([True, True, True, False, False])
    # bins of a tenth: |2 − 1.9| + |1 − 1.1| + |0 − 0.3| = 0.5, over 5 answers
    assert expected_calibration_error(confidence, right, bins=10) == pytest.approx(0.1)


def test_a_bin_is_closed_above_and_the_ends_have_one() -> None:
    ends = np.array([0.0, 0.5, 1.0])  # bins (0, 0.5] and (0.5, 1], the first one with its lower end too
    error = expected_calibration_error(ends, np.array([True, False, False]), bins=2)
    assert error == pytest.approx((abs(0.5 - 1) + 1) / 3)


@given(st.floats(0.05, 0.95))
def test_who_is_right_as_often_as_sure_has_next_to_no_error(sure: float) -> None:
    right = np.arange(10_000) < round(10_000 * sure)
    assert expected_calibration_error(np.full(10_000, sure), right) < 1e-4


def test_calibrated_random_answers_have_little_error_and_overconfident_ones_much() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(20_000, 3))
    powers = np.exp(logits)
    truth = (rng.random((20_000, 1)) > (powers / powers.sum(-1, keepdims=True)).cumsum(-1)).sum(-1)
    targets = np.eye(3)[truth]
    assert calibration_errors(logits, targets, "single_label").item() < 0.02
    assert calibration_errors(5 * logits, targets, "single_label").item() > 0.1


def test_several_labels_have_an_error_each_and_a_score_has_none() -> None:
    logits = np.array([[0.0, 30.0], [0.0, 30.0]])  # a half sure, quite sure
    targets = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert calibration_errors(logits, targets, "multi_label") == pytest.approx([0.0, 1.0])
    assert calibration_errors(logits[:, :1], targets[:, :1], "regression").shape == (0,)


def test_huge_logits_are_sure_and_not_undefined() -> None:
    logits, targets = np.array([[1e4, -1e4]], dtype=np.float32), np.array([[1.0, 0.0]])
    assert calibration_errors(logits, targets, "single_label") == pytest.approx([0.0])
    assert calibration_errors(logits, targets, "multi_label") == pytest.approx([0.0, 0.0])
