"""Why a run ends without a student: the errors, and what their user is told. Needs no torch.

- `RefusedError` (mixkd.contract.problems): an input that cannot work
- `DivergedError`: a loss, a gradient or an answer stopped being a finite number
"""

from mixkd.contract.messages import Failed, Phase
from mixkd.contract.problems import RefusedError

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)


class DivergedError(Exception):
    """At `step`, counted from 1, a loss or gradient was not finite, or the answers before it were not.

    `checkpoint` is the step that the last good checkpoint was written after; None: there is none.
    """

    def __init__(self, phase: Phase, step: int, learning_rate: float, checkpoint: int | None = None) -> None:
        super().__init__(f"not finite at step {step} of {phase}, learning rate {learning_rate:.3g}")
        self.phase, self.step, self.learning_rate = phase, step, learning_rate
        self.checkpoint = checkpoint


class NotFiniteError(Exception):
    """A model answered with NaN or infinity, so that no score would mean anything."""


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
        case _ if is_out_of_memory(error):
            return Failed(
                cause="out_of_memory",
                detail="the training did not fit into memory",
                field="recipe.distil.batch_size",
                remedy="lower the batch size, `max_length` or the mixup ratio",
            )
    if isinstance(error, OSError) and error.strerror:  # its text may name a path of this machine
        return Failed(cause="internal", detail=f"a file could not be read or written: {error.strerror}",
                      remedy="make room on the disk, or look into the log")  # fmt: skip
    return Failed(cause="internal", detail=f"an unexpected error ({type(error).__name__}); the log has more")


def _diverged(error: DivergedError) -> Failed:
    where = f"step {error.step} of the phase {error.phase} (learning rate {error.learning_rate:.3g})"
    if error.step == 1:  # no update has been made yet
        return Failed(
            cause="diverged",
            detail=f"the loss or its gradient is not finite at {where}, before any weight was changed",
            remedy="check the models' weights for NaN and infinity; lower the weights of the recipe's loss; "
            "set `recipe.runtime.precision` to `fp32`",
        )
    last = "" if error.checkpoint is None else f"; the last good checkpoint is of step {error.checkpoint}"
    return Failed(
        cause="diverged",
        detail=f"the loss stopped being a finite number at {where}{last}",
        field=f"recipe.{'teach' if error.phase == 'teach' else 'distil'}.learning_rate",
        remedy="lower the learning rate",
    )


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of a GPU; without importing torch to ask."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        return True
    # The CPU's allocator, cuBLAS and the driver raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
