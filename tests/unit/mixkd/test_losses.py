"""The losses against float64 references in plain NumPy, written from the paper; gradients too."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mixkd import losses
from mixkd.contract.data_spec import Task
from mixkd.contract.spec import LossSpec

finite = st.floats(-20, 20)
TASKS: tuple[Task, ...] = ("single_label", "multi_label", "regression")


def logits(rows: int = 4, classes: int = 3) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float64, (rows, classes), elements=finite)


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


@given(logits())
def test_equation_3_is_the_mean_negative_log_likelihood(values: np.ndarray) -> None:
    labels = np.array([0, 2, 1, 2])
    expected = -np.mean(log_softmax(values)[np.arange(4), labels])
    found = losses.mle(torch.from_numpy(values), torch.eye(3, dtype=torch.float64)[labels], "single_label")
    assert float(found) == pytest.approx(expected, abs=1e-12)


@given(logits(), st.floats(0, 1))
def test_equation_7_is_the_cross_entropy_with_mixed_labels(values: np.ndarray, weight: float) -> None:
    mixed = weight * np.eye(3)[[0, 1, 2, 0]] + (1 - weight) * np.eye(3)[[1, 1, 0, 2]]
    expected = -np.mean((mixed * log_softmax(values)).sum(-1))
    found = losses.sm(torch.from_numpy(values), torch.from_numpy(mixed), "single_label")
    assert float(found) == pytest.approx(expected, abs=1e-12)


@given(logits(), arrays.arrays(np.float64, (4, 3), elements=st.floats(0, 1)))
def test_several_labels_are_told_one_by_one(values: np.ndarray, targets: np.ndarray) -> None:
    """Targets between 0 and 1: those of mixed rows."""
    p = sigmoid(values)
    expected = -np.mean(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    for loss in (losses.mle, losses.sm):
        found = loss(torch.from_numpy(values), torch.from_numpy(targets), "multi_label")
        assert float(found) == pytest.approx(expected, rel=1e-7)


@given(logits(classes=1), logits(classes=1))
def test_a_score_has_the_squared_error(values: np.ndarray, targets: np.ndarray) -> None:
    for loss in (losses.mle, losses.sm):
        found = loss(torch.from_numpy(values), torch.from_numpy(targets), "regression")
        assert float(found) == pytest.approx(np.mean((values - targets) ** 2))


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
        for loss in (losses.tmkd, losses.kd):
            assert float(loss(s, t, "single_label", spec)) == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(logits(), logits())
def test_distances_of_several_labels_are_those_of_each_label(
    student: np.ndarray, teacher: np.ndarray
) -> None:
    s, t = torch.from_numpy(student), torch.from_numpy(teacher)
    p, q = sigmoid(student), sigmoid(teacher)
    a, b = sigmoid(teacher / 3), sigmoid(student / 3)
    divergence = (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).mean()
    for distance, value in {"mse_probabilities": np.mean((p - q) ** 2), "kl": 9 * divergence}.items():
        spec = LossSpec.model_validate({"distance": distance, "temperature": 3.0})
        for loss in (losses.tmkd, losses.kd):
            assert float(loss(s, t, "multi_label", spec)) == pytest.approx(value, rel=1e-6, abs=1e-9)


DISTANCES = [
    ("mse_logits", "single_label"),
    ("mse_logits", "multi_label"),
    ("mse_logits", "regression"),
    ("mse_probabilities", "single_label"),
    ("mse_probabilities", "multi_label"),
    ("kl", "single_label"),
    ("kl", "multi_label"),
]


@pytest.mark.parametrize(("distance", "task"), DISTANCES)
@given(values=logits(), temperature=st.floats(0.1, 20))
def test_every_distance_is_zero_at_equality(
    distance: str, task: Task, values: np.ndarray, temperature: float
) -> None:
    same = torch.from_numpy(values)
    spec = LossSpec.model_validate({"distance": distance, "temperature": temperature})
    assert float(losses.tmkd(same, same.clone(), task, spec)) == 0


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
@given(student=logits(), teacher=logits(), temperature=st.floats(0.5, 10))
def test_kl_is_never_negative(
    task: Task, student: np.ndarray, teacher: np.ndarray, temperature: float
) -> None:
    spec = LossSpec(distance="kl", temperature=temperature)
    found = losses.tmkd(torch.from_numpy(student), torch.from_numpy(teacher), task, spec)
    assert float(found) >= -1e-9


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


@pytest.mark.parametrize("temperature", [50.0, 200.0])
def test_t_squared_does_the_same_for_each_of_several_labels(temperature: float) -> None:
    """σ(z / T) ≈ 1/2 + z / 4T: the gradient tends to a quarter of the difference of the logits."""
    chance = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64, generator=chance)
    student.requires_grad_()
    losses.binary_kl(student, teacher, temperature).backward()
    expected = (student.detach() - teacher) / 4 / 12  # mean of 4 rows and 3 labels
    torch.testing.assert_close(student.grad, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize(("distance", "task"), DISTANCES)
def test_gradients_of_every_distance(distance: str, task: Task) -> None:
    chance = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, dtype=torch.float64, generator=chance)
    spec = LossSpec.model_validate({"distance": distance, "temperature": 2.5})
    torch.autograd.gradcheck(
        lambda values: losses.tmkd(values, teacher, task, spec), student.requires_grad_()
    )


@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_every_label_loss(task: Task) -> None:
    chance = torch.Generator().manual_seed(0)
    values = torch.randn(4, 3, dtype=torch.float64, generator=chance).requires_grad_()
    targets = torch.rand(4, 3, dtype=torch.float64, generator=chance)
    weights = torch.rand(3, dtype=torch.float64, generator=chance) if task == "single_label" else None
    torch.autograd.gradcheck(lambda found: losses.mle(found, targets, task, weights), values)


def test_equation_8_weighs_its_terms() -> None:
    spec = LossSpec(mle_weight=3, kd_weight=0.1, sm_weight=0.5, tmkd_weight=2)
    terms = [torch.tensor(value, dtype=torch.float64) for value in (1.0, 10.0, 100.0, 1000.0)]
    assert float(losses.total(*terms, spec)) == pytest.approx(3 + 1 + 50 + 2000)


# -- smoothing and class weights -------------------------------------------------------------------------


def test_smoothing_spreads_a_share_of_the_label_over_all_classes() -> None:
    one_hot = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    assert losses.smooth(one_hot, "single_label", 0.2).tolist()[0] == pytest.approx([0.05, 0.85, 0.05, 0.05])
    # Each of several labels has two outcomes of its own.
    assert losses.smooth(one_hot, "multi_label", 0.2).tolist()[0] == pytest.approx([0.1, 0.9, 0.1, 0.1])


def test_smoothing_leaves_scores_and_a_share_of_zero_alone() -> None:
    scores = torch.tensor([[2.5]])
    assert losses.smooth(scores, "regression", 0.2) is scores
    assert losses.smooth(scores, "single_label", 0.0) is scores


@given(logits())
def test_class_weights_multiply_what_a_row_of_the_class_counts(values: np.ndarray) -> None:
    labels, weights = np.array([0, 2, 1, 2]), np.array([2.0, 0.5, 1.0])
    each = -log_softmax(values)[np.arange(4), labels]
    targets = torch.eye(3, dtype=torch.float64)[labels]
    found = losses.cross_entropy(torch.from_numpy(values), targets, torch.from_numpy(weights))
    assert float(found) == pytest.approx(np.mean(weights[labels] * each), abs=1e-12)


COUNTS = torch.tensor([60.0, 30.0, 10.0], dtype=torch.float64)


def test_no_class_weights_where_none_are_asked_for() -> None:
    assert losses.class_weights(LossSpec(), ("a", "b", "c"), COUNTS) is None


def test_balanced_weights_make_every_class_count_the_same() -> None:
    found = losses.class_weights(LossSpec(class_weights="balanced"), ("a", "b", "c"), COUNTS)
    assert (found * COUNTS).tolist() == pytest.approx([100 / 3] * 3)


def test_given_weights_are_scaled_so_that_a_training_row_weighs_one_on_average() -> None:
    found = losses.class_weights(LossSpec(class_weights={"c": 5, "a": 0.1}), ("a", "b", "c"), COUNTS)
    assert float((found * COUNTS).sum() / COUNTS.sum()) == pytest.approx(1)
    assert (found / found[1]).tolist() == pytest.approx([0.1, 1, 5], rel=1e-12)  # what is not named weighs 1


def test_the_only_row_of_a_class_counts_as_much_as_all_of_another() -> None:
    counts = torch.tensor([99.0, 1.0], dtype=torch.float64)
    found = losses.class_weights(LossSpec(class_weights="balanced"), ("a", "b"), counts)
    assert (found * counts).tolist() == pytest.approx([50, 50])


def test_a_class_without_a_training_row_does_not_spoil_the_others() -> None:
    counts = torch.tensor([50.0, 50.0, 0.0], dtype=torch.float64)
    found = losses.class_weights(LossSpec(class_weights="balanced"), ("a", "b", "c"), counts)
    assert found[:2].tolist() == pytest.approx([1, 1])
    assert bool(found.isfinite().all())
