"""The losses against float64 references in plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mixkd import losses
from mixkd.contract.spec import LossSpec

finite = st.floats(-20, 20)


def logits(rows: int = 4, classes: int = 3) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float64, (rows, classes), elements=finite)


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@given(logits())
def test_equation_3_is_the_mean_negative_log_likelihood(values: np.ndarray) -> None:
    labels = np.array([0, 2, 1, 2])
    expected = -np.mean(log_softmax(values)[np.arange(4), labels])
    found = losses.mle(torch.from_numpy(values), torch.from_numpy(labels))
    assert float(found) == pytest.approx(expected, abs=1e-12)


@given(logits(), st.floats(0, 1))
def test_equation_7_is_the_cross_entropy_with_mixed_labels(values: np.ndarray, weight: float) -> None:
    mixed = weight * np.eye(3)[[0, 1, 2, 0]] + (1 - weight) * np.eye(3)[[1, 1, 0, 2]]
    expected = -np.mean((mixed * log_softmax(values)).sum(-1))
    found = losses.sm(torch.from_numpy(values), torch.from_numpy(mixed))
    assert float(found) == pytest.approx(expected, abs=1e-12)


@given(logits(), logits())
def test_equation_6_with_each_distance(student: np.ndarray, teacher: np.ndarray) -> None:
    s, t = torch.from_numpy(student), torch.from_numpy(teacher)
    p, q = np.exp(log_softmax(student)), np.exp(log_softmax(teacher))
    soft_s, soft_t = log_softmax(student / 3), log_softmax(teacher / 3)
    divergence = (np.exp(soft_t) * (soft_t - soft_s)).sum(-1).mean()
    expected = {
        "mse_logits": np.mean((student - teacher) ** 2),
        "mse_probabilities": np.mean((p - q) ** 2),
        "kl": 9 * divergence,
    }
    for distance, value in expected.items():
        spec = LossSpec.model_validate({"distance": distance, "temperature": 3.0})
        assert float(losses.tmkd(s, t, spec)) == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("distance", ["mse_logits", "mse_probabilities", "kl"])
@given(values=logits(), temperature=st.floats(0.1, 20))
def test_every_distance_is_zero_at_equality(distance: str, values: np.ndarray, temperature: float) -> None:
    same = torch.from_numpy(values)
    spec = LossSpec.model_validate({"distance": distance, "temperature": temperature})
    assert float(losses.tmkd(same, same.clone(), spec)) == 0


@given(logits(), logits(), st.floats(0.5, 10))
def test_kl_is_never_negative(student: np.ndarray, teacher: np.ndarray, temperature: float) -> None:
    assert float(losses.kl(torch.from_numpy(student), torch.from_numpy(teacher), temperature)) >= -1e-9


@pytest.mark.parametrize("temperature", [50.0, 200.0])
def test_t_squared_keeps_the_scale_of_the_gradient_when_the_temperature_changes(temperature: float) -> None:
    """Hinton et al. 2015, equation 4: for a large T the gradient tends to the difference of the centred
    logits over C, whatever T is. Without T² it would vanish like 1 / T²."""
    chance = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64, generator=chance)
    student.requires_grad_()
    losses.kl(student, teacher, temperature).backward()
    difference = student.detach() - teacher
    expected = (difference - difference.mean(-1, keepdim=True)) / 3 / 4  # C classes, mean of 4 rows
    torch.testing.assert_close(student.grad, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_equation_8_weighs_its_terms() -> None:
    spec = LossSpec(sm_weight=0.5, tmkd_weight=2)
    assert float(losses.total(torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0), spec)) == 206
