"""Whether a model is as often right as it is sure to be."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixkd.contract.data_spec import Task
from mixkd.metrics import Floats, labelled

BINS = 15


def calibration_errors(
    logits: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], task: Task
) -> Floats:
    """The expected calibration error of the answered class, (1,), or that of each of several labels, (C,).

    A regression says nothing of how sure it is: (0,). Logits and targets are (N, C).
    """
    values, truth = logits.astype(np.float64), labelled(targets, task)
    if task == "single_label":
        powers = np.exp(values - values.max(-1, keepdims=True))
        confidence = (powers / powers.sum(-1, keepdims=True)).max(-1)
        return np.array([expected_calibration_error(confidence, values.argmax(-1) == truth)])
    if task == "multi_label":
        likely = np.exp(-np.logaddexp(0, -values))  # the sigmoid, whatever the size of a logit
        return np.array([expected_calibration_error(*each) for each in zip(likely.T, truth.T, strict=True)])
    return np.array([])


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Σ_b n_b / N · |how often right − how sure|, bins ((b − 1) / B, b / B] (Guo et al. 2017); both (N,)."""
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    surplus = np.bincount(place, weights=confidence - right, minlength=bins)
    return float(np.abs(surplus).sum() / len(confidence))
