"""Metrics against scikit-learn and SciPy, on random answers and on those where definitions run out."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from mixkd import losses, metrics
from mixkd.contract.data_spec import MetricName, Task

TASKS: tuple[Task, ...] = ("single_label", "multi_label", "regression")

# The field's own definition of each metric: of classes, of labels, or of scores.
REFERENCES: dict[tuple[Task, MetricName], Callable[..., float]] = {
    ("single_label", "accuracy"): sklearn.accuracy_score,
    ("single_label", "macro_f1"): lambda t, p: sklearn.f1_score(t, p, average="macro", zero_division=0),
    ("single_label", "f1"): lambda t, p: sklearn.f1_score(t == 1, p == 1, zero_division=0),
    ("single_label", "matthews"): sklearn.matthews_corrcoef,
    ("multi_label", "micro_f1"): lambda t, p: sklearn.f1_score(t, p, average="micro", zero_division=0),
    ("multi_label", "macro_f1"): lambda t, p: sklearn.f1_score(t, p, average="macro", zero_division=0),
    ("multi_label", "exact_match"): sklearn.accuracy_score,
    ("regression", "pearson"): lambda t, p: scipy.stats.pearsonr(t, p).statistic,
    ("regression", "spearman"): lambda t, p: scipy.stats.spearmanr(t, p).statistic,
    ("regression", "rmse"): sklearn.root_mean_squared_error,
}


def reference(task: Task, metric: MetricName, truth: NDArray, found: NDArray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a definition runs out is what some tests are about
        value = float(REFERENCES[task, metric](truth, found))
    return 0.0 if np.isnan(value) else value


def draw(task: Task, seed: int, rows: int = 60, outputs: int = 4) -> tuple[NDArray, NDArray]:
    """Answers and targets (N, C) that agree more often than not."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        truth = rng.integers(0, 11, (rows, 1)) / 2  # half points: many ties
        return np.round(truth + rng.normal(size=(rows, 1)), 1), truth
    targets = (
        np.eye(outputs)[rng.integers(outputs, size=rows)]
        if task == "single_label"
        else (rng.random((rows, outputs)) < 0.3).astype(float)
    )
    return rng.normal(size=(rows, outputs)) + targets, targets


def test_every_metric_has_a_reference_here() -> None:
    assert {metric for _, metric in REFERENCES} == set(metrics.METRIC)


@pytest.mark.parametrize(("task", "metric"), REFERENCES)
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn_and_scipy(task: Task, metric: MetricName, seed: int) -> None:
    answers, targets = draw(task, seed, outputs=2 if metric == "f1" else 4)
    found = metrics.score(answers, targets, task, [metric])[metric]
    truth, answered = metrics.labelled(targets, task), metrics.answered(answers, task)
    assert found == pytest.approx(reference(task, metric, truth, answered), abs=1e-12)


ONE, TWO, NONE = [0, 0, 0], [1, 1, 1], [[False, False]] * 3
DEGENERATE: list[tuple[Task, object, object]] = [
    ("single_label", ONE, ONE),
    ("single_label", ONE, TWO),
    ("single_label", [0, 1, 1], ONE),
    ("single_label", ONE, [0, 1, 1]),
    ("single_label", [1], [1]),
    ("multi_label", NONE, NONE),
    ("multi_label", NONE, [[True, False]] * 3),
    ("multi_label", [[True, False]] * 3, NONE),
    ("regression", [1.0, 2.0, 3.0], [0.3, 0.3, 0.3]),
    ("regression", [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]),
    ("regression", [0.1, 0.1, 0.1], [0.3, 0.3, 0.3]),
    ("regression", [0.1] * 10, [0.7] * 10),  # their mean is not quite their value
]


@pytest.mark.parametrize(("task", "truth", "found"), DEGENERATE)
def test_where_a_definition_runs_out_the_metric_is_what_the_field_says_or_0(
    task: Task, truth: object, found: object
) -> None:
    for metric in (metric for of, metric in REFERENCES if of == task):
        value = float(metrics.METRIC[metric](np.array(truth), np.array(found), None))
        assert value == pytest.approx(reference(task, metric, np.array(truth), np.array(found))), metric


def test_a_correlation_sees_a_small_spread_far_from_zero() -> None:
    truth = 1e6 + np.array([0.0, 1.0, 2.0, 4.0])
    assert float(metrics.pearson(truth, truth)) == pytest.approx(1)


@pytest.mark.parametrize(("task", "metric"), REFERENCES)
def test_a_row_that_counts_three_times_is_three_rows(task: Task, metric: MetricName) -> None:
    answers, targets = draw(task, 7, outputs=2 if metric == "f1" else 4)
    counts = np.random.default_rng(1).integers(0, 4, (3, len(answers))).astype(float)
    counts[2] = np.arange(len(answers)) == 5  # a resample of nothing but one row
    truth, found = metrics.labelled(targets, task), metrics.answered(answers, task)
    values = metrics.METRIC[metric](truth, found, counts)
    assert values.shape == (3,)
    for value, times in zip(values, counts.astype(int), strict=True):
        alone = metrics.METRIC[metric](truth.repeat(times, 0), found.repeat(times, 0), None)
        assert value == pytest.approx(float(alone), abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_the_one_that_trains(task: Task) -> None:
    answers, targets = draw(task, 3)
    if task == "single_label":
        targets = 0.9 * targets + 0.1 / 4  # labels may be soft
    trained = losses.label_loss(torch.from_numpy(answers), torch.from_numpy(targets), task, None)
    assert metrics.score(answers, targets, task, ())["loss"] == pytest.approx(float(trained), abs=1e-12)


def test_the_loss_of_huge_logits_is_finite() -> None:
    answers, targets = np.array([[3e38, -3e38]], dtype=np.float32), np.array([[0.0, 1.0]], dtype=np.float32)
    for task in TASKS[:2]:
        assert np.isfinite(metrics.score(answers, targets, task, ())["loss"])


def test_a_soft_label_counts_as_its_likeliest_class() -> None:
    targets = np.array([[0.4, 0.6], [0.9, 0.1]])
    assert metrics.score(np.array([[0.0, 1.0], [0.0, 1.0]]), targets, "single_label", ["accuracy"]) == {
        "accuracy": 0.5,
        "loss": pytest.approx(-np.mean([0.4, 0.9]) * np.log(1 / (1 + np.e))
                              - np.mean([0.6, 0.1]) * np.log(np.e / (1 + np.e))),
    }  # fmt: skip


@given(st.sampled_from(sorted(metrics.METRIC)), st.floats(0, 1), st.floats(0, 1))
def test_better_is_higher_but_for_an_error_and_at_a_tie_a_lower_loss(
    metric: MetricName, a: float, b: float
) -> None:
    one, other = {metric: a, "loss": 2.0}, {metric: b, "loss": 1.0}
    won = metrics.is_better(metric, one, other)
    assert won == (a < b if metric == "rmse" else a > b)
    assert metrics.is_better(metric, {metric: a, "loss": 0.5}, {metric: a, "loss": 1.0})
    assert not metrics.is_better(metric, one, one)
