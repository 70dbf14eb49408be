"""Scores of predictions."""

import numpy as np
from numpy.typing import NDArray

from mixkd.contract.strict import Strict

Classes = NDArray[np.int64]


class Scores(Strict):
    """How well a model does on labelled rows. `loss` is the mean cross-entropy."""

    accuracy: float
    macro_f1: float
    loss: float


def accuracy(truth: Classes, predicted: Classes) -> float:
    """The share of rows whose class was found."""
    return float((truth == predicted).mean())


def macro_f1(truth: Classes, predicted: Classes) -> float:
    """The mean F1 of all classes that occur in the truth or among the predictions (as in scikit-learn)."""
    scores = []
    for label in np.union1d(truth, predicted):
        hits = int(((truth == label) & (predicted == label)).sum())
        claims_and_cases = int((predicted == label).sum()) + int((truth == label).sum())
        scores.append(2 * hits / claims_and_cases)
    return float(np.mean(scores))
