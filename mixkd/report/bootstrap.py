"""How sure a score is: the seeded percentile bootstrap (Efron 1979), over the rows of a set.

All models are scored on the same resamples, so that the difference of two of them is a paired one: rows that
are easy or hard for both do not blur it. An interval is about which rows were drawn, not about another seed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixkd.contract.data_spec import MetricName, Task
from mixkd.contract.strict import Strict
from mixkd.metrics import METRIC, Floats, answered, labelled

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 2**22  # rows of resamples that are scored together: 32 MiB of counts


class Interval(Strict):
    """A number on the rows there are, and the limits of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bootstrapped:
    """The metrics of several models on the same rows, and on R resamples of them."""

    values: Mapping[str, Mapping[MetricName, float]]
    resampled: Mapping[str, Mapping[MetricName, Floats]]  # (R,) each

    def intervals(self, model: str) -> dict[MetricName, Interval]:
        """Each metric of a model."""
        return {
            metric: _interval(value, self.resampled[model][metric])
            for metric, value in self.values[model].items()
        }

    def differences(self, model: str, other: str) -> dict[MetricName, Interval]:
        """Each metric of `model` minus that of `other`."""
        return {
            metric: _interval(
                value - self.values[other][metric],
                self.resampled[model][metric] - self.resampled[other][metric],
            )
            for metric, value in self.values[model].items()
        }


def bootstrap(
    answers: Mapping[str, NDArray[np.floating[Any]]],
    targets: NDArray[np.floating[Any]],
    task: Task,
    metrics: Sequence[MetricName],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Bootstrapped:
    """Score every model's answers, (N, C) as the targets, on the rows and on resamples of them."""
    truth = labelled(targets, task)
    found = {model: answered(values, task) for model, values in answers.items()}
    draws: dict[str, dict[MetricName, list[Floats]]] = {m: {metric: [] for metric in metrics} for m in found}
    rows = len(targets)
    step = max(1, _AT_ONCE // rows)
    for start in range(0, resamples, step):
        counts = draw_counts(rows, min(step, resamples - start), rng)
        for model, said in found.items():
            for metric in metrics:
                draws[model][metric].append(METRIC[metric](truth, said, counts))
    return Bootstrapped(
        {model: {m: float(METRIC[m](truth, said, None)) for m in metrics} for model, said in found.items()},
        {model: {m: np.concatenate(some) for m, some in drawn.items()} for model, drawn in draws.items()},
    )


def draw_counts(rows: int, resamples: int, rng: np.random.Generator) -> Floats:
    """How often each row is in each resample, drawn with replacement: (resamples, rows)."""
    places = rng.integers(rows, size=(resamples, rows)) + rows * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


def _interval(value: float, draws: Floats) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value=value, low=float(low), high=float(high))
