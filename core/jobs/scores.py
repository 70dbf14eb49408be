"""How good a job's student is beside its teacher, as far as it is known by now.

While it trains: the best evaluations on the validation rows, by the metric that chooses them. Once it has
succeeded: as the report card judges both.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mixkd.contract.data_spec import MetricName
from mixkd.contract.messages import Metric

VALIDATION = "validation_"
"""What the names of a trainer's validation scores start with."""

_WHOSE = {"teach": "teacher", "distil": "student"}


def better(metric: MetricName, one: float, other: float | None) -> float:
    """The better of two scores; of `rmse` that is the lower one."""
    if other is None:
        return one
    return min(one, other) if metric == "rmse" else max(one, other)


def evaluated(before: Mapping[str, Any] | None, metric: MetricName, news: Sequence[Metric]) -> dict[str, Any]:
    """What is known after more evaluations.

    Args:
        before: what was known; None: nothing.
        metric: the first metric of the job's data set.
        news: what the trainer logged; numbers other than that metric's do not matter.
    """
    scores = {"metric": metric, "set": "validation", "teacher": None, "student": None, **(before or {})}
    for one in news:
        whose, value = _WHOSE.get(one.phase), one.values.get(VALIDATION + metric)
        if whose is not None and value is not None:
            scores[whose] = better(metric, value, scores[whose])
    return scores


def reported(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a report card says; None: it is of a release that did not say it."""
    try:
        metric, judged_on = report["comparison"]["metric"], report["judged_on"]
        card = report["sets"][judged_on]
        return {
            "metric": metric,
            "set": judged_on,
            **{whose: card[whose]["scores"][metric]["value"] for whose in ("teacher", "student")},
        }
    except (KeyError, TypeError):
        return None
