"""Scores of answers against labels, as scikit-learn and SciPy define them. N rows, C outputs.

A metric takes what is true and what was answered: class numbers (N,), labels that are there (N, C), or scores
(N,). Its third argument says how often each row counts, (N,), or that of R resamples at once, (R, N); None:
once. It returns one value, or R of them. Where a metric would divide by zero, such as the correlation with
an answer that never changes, it is 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixkd.contract.data_spec import MetricName, Task

Scores = dict[str, float]
"""By metric, and `loss`: the mean loss of the task."""

Classes = NDArray[np.int64]  # (N,)
Flags = NDArray[np.bool_]  # (N, C)
Floats = NDArray[np.float64]
Counts = Floats | None

_CONSTANT = 1e-13  # a spread this small beside the values is rounding, as SciPy has it


def score(
    answers: NDArray[np.floating[Any]],
    targets: NDArray[np.floating[Any]],
    task: Task,
    metrics: Sequence[MetricName],
) -> Scores:
    """How well logits or scores fit the targets, both (N, C): each metric, and the mean loss in float64."""
    truth, found = labelled(targets, task), answered(answers, task)
    scores: Scores = {metric: float(METRIC[metric](truth, found, None)) for metric in metrics}
    return scores | {"loss": float(row_losses(answers, targets, task).mean())}


def is_better(metric: MetricName, scores: Scores, best: Scores) -> bool:
    """Whether `scores` are better than `best`: by the metric, and where that is equal by a lower loss."""
    sign = -1 if metric == "rmse" else 1
    return (sign * scores[metric], -scores["loss"]) > (sign * best[metric], -best["loss"])


def answered(answers: NDArray[np.floating[Any]], task: Task) -> NDArray[Any]:
    """What logits or scores (N, C) say: the likeliest class (N,), the likely labels (N, C), a score (N,)."""
    return _decided(answers, task, least=0)


def labelled(targets: NDArray[np.floating[Any]], task: Task) -> NDArray[Any]:
    """What targets (N, C) say, in the same shape; a soft label counts as what is likeliest."""
    return _decided(targets, task, least=0.5)


def _decided(values: NDArray[np.floating[Any]], task: Task, least: float) -> NDArray[Any]:
    if task == "single_label":
        likeliest: Classes = values.argmax(-1)
        return likeliest
    likely: Flags = values > least
    return likely if task == "multi_label" else values[:, 0].astype(np.float64)


def row_losses(answers: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], task: Task) -> Floats:
    """The loss of each row, (N,), as `losses.label_loss` has it: cross-entropy, binary one, squared error."""
    logits, wanted = answers.astype(np.float64), targets.astype(np.float64)
    if task == "single_label":
        shifted = logits - logits.max(-1, keepdims=True)
        losses: Floats = -(wanted * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)
    elif task == "multi_label":
        losses = (np.logaddexp(0, logits) - wanted * logits).mean(-1)
    else:
        losses = ((logits - wanted) ** 2).mean(-1)
    return losses


# -- classes -----------------------------------------------------------------------------------------------


def accuracy(truth: Classes, predicted: Classes, counts: Counts = None) -> Floats:
    """The share of rows whose class was found."""
    return _mean(truth == predicted, counts)


def f1(truth: Classes, predicted: Classes, counts: Counts = None) -> Floats:
    """The F1 of the second of two classes."""
    return _f1(*_tally_labels(truth[:, None] == 1, predicted[:, None] == 1, counts))[..., 0]


def macro_f1(truth: Classes | Flags, predicted: Classes | Flags, counts: Counts = None) -> Floats:
    """The mean F1 of all labels, or of all classes that occur in the truth or among the answers."""
    hits, cases, claims = tally(truth, predicted, counts)
    counted = np.ones_like(hits) if truth.ndim == 2 else (cases + claims > 0).astype(np.float64)
    return _ratio((_f1(hits, cases, claims) * counted).sum(-1), counted.sum(-1))


def matthews(truth: Classes, predicted: Classes, counts: Counts = None) -> Floats:
    """Matthews' correlation, for any number of classes (Gorodkin 2004, R_K)."""
    hits, cases, claims = tally(truth, predicted, counts)
    rows = cases.sum(-1)
    spread = (rows**2 - (cases**2).sum(-1)) * (rows**2 - (claims**2).sum(-1))
    return _ratio(hits.sum(-1) * rows - (cases * claims).sum(-1), np.sqrt(spread))


def tally(
    truth: NDArray[Any], predicted: NDArray[Any], counts: Counts = None, classes: int | None = None
) -> tuple[Floats, Floats, Floats]:
    """Per class or label: how often it was found, how often it is true, how often it was answered.

    Args:
        classes: how many there are; None: as many as occur.
    """
    if truth.ndim == 2:
        return _tally_labels(truth, predicted, counts)
    size = classes or int(max(truth.max(), predicted.max())) + 1
    rows = _counts(counts, len(truth))
    hits = _sums(rows * (truth == predicted), truth, size)
    return hits, _sums(rows, truth, size), _sums(rows, predicted, size)


# -- several labels ----------------------------------------------------------------------------------------


def micro_f1(truth: Flags, predicted: Flags, counts: Counts = None) -> Floats:
    """The F1 of all labels of all rows together."""
    hits, cases, claims = _tally_labels(truth, predicted, counts)
    return _f1(hits.sum(-1), cases.sum(-1), claims.sum(-1))


def exact_match(truth: Flags, predicted: Flags, counts: Counts = None) -> Floats:
    """The share of rows of which every label was found and no other."""
    return _mean((truth == predicted).all(-1), counts)


def _tally_labels(truth: Flags, predicted: Flags, counts: Counts) -> tuple[Floats, Floats, Floats]:
    rows = _counts(counts, len(truth))
    hits, cases, claims = (rows @ flags.astype(np.float64) for flags in (truth & predicted, truth, predicted))
    return hits, cases, claims


# -- scores ------------------------------------------------------------------------------------------------


def pearson(truth: Floats, predicted: Floats, counts: Counts = None) -> Floats:
    """The linear correlation."""
    return _correlation(truth, predicted, _counts(counts, len(truth)))


def spearman(truth: Floats, predicted: Floats, counts: Counts = None) -> Floats:
    """The linear correlation of ranks; equal values share the mean of their ranks."""
    rows = _counts(counts, len(truth))
    return _correlation(_ranks(truth, rows), _ranks(predicted, rows), rows)


def rmse(truth: Floats, predicted: Floats, counts: Counts = None) -> Floats:
    """The root of the mean squared error, in the scores' own unit."""
    return np.sqrt(_mean((truth - predicted) ** 2, counts))


METRIC: dict[MetricName, Callable[[NDArray[Any], NDArray[Any], Counts], Floats]] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "micro_f1": micro_f1,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "exact_match": exact_match,
    "rmse": rmse,
}


# -- sums over rows ----------------------------------------------------------------------------------------


def _counts(counts: Counts, rows: int) -> Floats:
    return np.ones(rows) if counts is None else counts


def _mean(values: NDArray[Any], counts: Counts) -> Floats:
    """(N,) -> the mean, or (R,) of them."""
    rows = _counts(counts, len(values))
    return np.asarray(rows @ values.astype(np.float64) / rows.sum(-1))


def _sums(counts: Floats, groups: Classes, size: int) -> Floats:
    """The counts of each group's rows together: (N,) -> (size,), or (R, N) -> (R, size)."""
    resamples = counts.size // len(groups)
    places = (np.arange(resamples)[:, None] * size + groups).ravel()
    sums = np.bincount(places, counts.ravel(), resamples * size).astype(np.float64, copy=False)
    return sums.reshape(*counts.shape[:-1], size)


def _f1(hits: Floats, cases: Floats, claims: Floats) -> Floats:
    return _ratio(2 * hits, cases + claims)


def _ratio(above: Floats, below: Floats) -> Floats:
    """The quotient, 0 where there is none."""
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=below > 0)


def _ranks(values: Floats, counts: Floats) -> Floats:
    """The rank of each row among all that count, from 1: (N,) or (R, N)."""
    distinct, group = np.unique(values, return_inverse=True)
    sizes = _sums(counts, group, len(distinct))
    ranks: Floats = (sizes.cumsum(-1) - (sizes - 1) / 2)[..., group]
    return ranks


def _correlation(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Pearson's r of (N,) or (R, N) values."""
    share = counts / counts.sum(-1, keepdims=True)
    x, x_spread = _centred(x, share)
    y, y_spread = _centred(y, share)
    r = _ratio((share * x * y).sum(-1), x_spread * y_spread)
    return np.clip(r, -1, 1)


def _centred(values: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Values less their mean, and their standard deviation, 0 where it is nothing but rounding."""
    centred = values - (share * values).sum(-1, keepdims=True)
    spread = np.sqrt((share * centred**2).sum(-1))
    return centred, np.where(spread > _CONSTANT * np.abs(values).max(-1), spread, 0.0)
