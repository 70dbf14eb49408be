"""What is known of a job's scores while it runs, and after."""

from typing import Any

import pytest

from core.jobs import scores
from mixkd.contract.messages import Metric, Phase


def metric(phase: Phase, step: int, **values: float) -> Metric:
    return Metric(phase=phase, step=step, values=values)


def test_the_best_of_each_counts_and_a_worse_one_changes_nothing() -> None:
    first = scores.evaluated(
        None,
        "accuracy",
        [metric("teach", 9, validation_accuracy=0.9), metric("distil", 4, validation_accuracy=0.7)],
    )
    assert first == {"metric": "accuracy", "set": "validation", "teacher": 0.9, "student": 0.7}
    after = scores.evaluated(first, "accuracy", [metric("distil", 8, validation_accuracy=0.6)])
    assert after == first
    best = scores.evaluated(after, "accuracy", [metric("distil", 12, validation_accuracy=0.8, loss=1)])
    assert best["student"] == 0.8


def test_of_rmse_the_lowest_is_the_best() -> None:
    found = scores.evaluated(
        None, "rmse", [metric("distil", 1, validation_rmse=0.5), metric("distil", 2, validation_rmse=0.7)]
    )
    assert found["student"] == 0.5


def test_other_metrics_losses_and_baselines_are_none_of_its_business() -> None:
    found = scores.evaluated(
        None,
        "accuracy",
        [
            metric("baselines", 5, validation_accuracy=0.99),
            metric("distil", 5, validation_macro_f1=0.5, validation_loss=0.1, loss=0.2),
        ],
    )
    assert (found["teacher"], found["student"]) == (None, None)


REPORT = {
    "comparison": {"metric": "accuracy"},
    "judged_on": "test",
    "sets": {
        "test": {
            "teacher": {"scores": {"accuracy": {"value": 0.93, "low": 0.9, "high": 0.95}}},
            "student": {"scores": {"accuracy": {"value": 0.91, "low": 0.9, "high": 0.92}}},
        }
    },
}


def test_a_report_has_the_last_word() -> None:
    found = scores.reported(REPORT)
    assert found == {"metric": "accuracy", "set": "test", "teacher": 0.93, "student": 0.91}


@pytest.mark.parametrize("report", [{}, {"student": {"accuracy": 0.9}}, REPORT | {"judged_on": "dev"}])
def test_a_report_of_an_earlier_release_says_nothing(report: dict[str, Any]) -> None:
    assert scores.reported(report) is None
