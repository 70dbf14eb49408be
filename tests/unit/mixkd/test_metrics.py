"""Scores against values worked out by hand."""

import numpy as np
import pytest

from mixkd.metrics import accuracy, macro_f1


def test_scores_of_a_small_confusion() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 0, 2])
    assert accuracy(truth, predicted) == pytest.approx(4 / 6)
    # class 0: precision 2/3, recall 2/3; class 1: 1/2, 1/2; class 2: 1, 1
    assert macro_f1(truth, predicted) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    assert macro_f1(np.array([0, 0]), np.array([0, 5])) == pytest.approx((2 / 3 + 0) / 2)
