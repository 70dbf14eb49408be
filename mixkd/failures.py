"""Why a run ended without a student, in words for its user."""

import torch

from mixkd.contract.messages import Failed
from mixkd.contract.problems import RefusedError
from mixkd.evaluate import NotFiniteError
from mixkd.train import DivergedError


def explain(error: Exception) -> Failed:
    """The message for an error: its cause, and what to do about it. The traceback belongs in the log."""
    match error:
        case RefusedError():
            first = error.problems[0]
            return Failed(cause="invalid_input", detail=str(error), field=first.field, remedy=first.remedy)
        case DivergedError():
            return _diverged(error)
        case NotFiniteError():
            return Failed(
                cause="diverged",
                detail="a model answered with NaN or infinity",
                remedy="check the teacher's weights",
            )
        case _ if _is_out_of_memory(error):
            return Failed(
                cause="out_of_memory",
                detail="the training did not fit into memory",
                field="recipe.distil.batch_size",
                remedy="lower the batch size, `max_length` or the mixup ratio",
            )
    return Failed(cause="internal", detail=f"an unexpected error ({type(error).__name__}); the log has more")


def _diverged(error: DivergedError) -> Failed:
    where = f"step {error.step} of the phase {error.phase} (learning rate {error.learning_rate:.3g})"
    if error.step == 1:  # no update has been made yet
        return Failed(
            cause="diverged",
            detail=f"the loss is not a finite number at {where}, before any weight was changed",
            field="teacher",
            remedy="check the teacher's weights: they seem to hold NaN or infinity",
        )
    return Failed(
        cause="diverged",
        detail=f"the loss stopped being a finite number at {where}",
        field=f"recipe.{error.phase}.learning_rate",
        remedy="lower the learning rate",
    )


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
