"""What a user is told when a run ends badly."""

import pytest
import torch

from mixkd.contract.problems import Problem, RefusedError
from mixkd.failures import DivergedError, explain


def test_a_divergence_names_the_step_the_rate_and_the_remedy() -> None:
    failed = explain(DivergedError("distil", 17, 5e-4))
    assert failed.cause == "diverged"
    assert "step 17" in failed.detail
    assert "0.0005" in failed.detail
    assert failed.field == "recipe.distil.learning_rate"
    assert failed.remedy == "lower the learning rate"


def test_a_divergence_names_the_last_good_checkpoint_if_there_is_one() -> None:
    assert "checkpoint is of step 12" in explain(DivergedError("teach", 17, 5e-4, checkpoint=12)).detail
    assert "checkpoint" not in explain(DivergedError("teach", 17, 5e-4)).detail


def test_a_divergence_of_a_baseline_points_at_a_field_that_exists() -> None:
    assert explain(DivergedError("baselines", 17, 5e-4)).field == "recipe.distil.learning_rate"


def test_of_a_loss_that_never_was_finite_no_more_is_said_than_is_known() -> None:
    """NaN weights are one reason; a weight of the loss or fp16 can be the other."""
    failed = explain(DivergedError("distil", 1, 1e-5))
    assert "before any weight was changed" in failed.detail
    assert failed.field is None
    assert failed.remedy is not None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_told_apart(error: Exception) -> None:
    failed = explain(error)
    assert failed.cause == "out_of_memory"
    assert failed.remedy is not None


def test_the_cpus_own_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert explain(caught.value).cause == "out_of_memory"


def test_another_error_of_torch_is_not_out_of_memory() -> None:
    assert explain(RuntimeError("The size of tensor a (3) must match …")).cause == "internal"


def test_a_refusal_names_the_field() -> None:
    failed = explain(RefusedError(Problem("recipe.student.layers", "too many", 9, "choose 1 to 6")))
    assert (failed.cause, failed.field, failed.remedy) == (
        "invalid_input",
        "recipe.student.layers",
        "choose 1 to 6",
    )


def test_an_unexpected_error_tells_no_secret() -> None:
    failed = explain(FileNotFoundError(2, "No such file", "/srv/secret/teacher/config.json"))
    assert failed.cause == "internal"
    assert "secret" not in failed.detail
