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


def test_a_loss_that_never_was_finite_points_at_the_teacher() -> None:
    assert explain(DivergedError("distil", 1, 1e-5)).field == "teacher"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to …")])
def test_out_of_memory_is_told_apart(error: Exception) -> None:
    failed = explain(error)
    assert failed.cause == "out_of_memory"
    assert failed.remedy is not None


def test_the_cpus_own_out_of_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert explain(caught.value).cause == "out_of_memory"


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
