"""What to commit for an attempt that did not succeed, and what its user is told."""

from collections.abc import Callable

import obstore
from pydantic import ValidationError
from sqlalchemy.orm import Session

from core.jobs import ends
from core.jobs.claims import Claim
from core.jobs.ends import OVERDUE, CancelledError, Failure
from core.jobs.states import FailureCause
from core.storage import CorruptFileError
from mixkd.contract.problems import RefusedError
from worker.halt import Halted, Reason

Ending = Callable[[Session], object]


class AttemptFailed(Exception):
    """The attempt is over, for a known reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


def ending(claim: Claim, error: Exception, retry_seconds: float) -> Ending:
    """What to commit for an attempt that did not succeed.

    Args:
        retry_seconds: see `core.jobs.ends.fail`.
    """
    match error:
        case CancelledError() | Halted(reason=Reason.CANCEL):
            return lambda session: ends.cancelled(session, claim.token)
        case Halted(reason=Reason.PAUSE):
            return lambda session: ends.paused(session, claim.token)
        case Halted(reason=Reason.SHUTDOWN):
            return lambda session: ends.hand_back(session, claim.token, Reason.SHUTDOWN)
    why = _failure(error)
    return lambda session: ends.fail(session, claim.token, why, retry_seconds)


def may_be_ours(error: Exception) -> bool:
    """Whether an attempt failed of what may be this worker's own: a device, a disk, its way to storage."""
    if isinstance(error, Halted | CancelledError):
        return False
    return _failure(error).cause in (FailureCause.INTERNAL, FailureCause.OUT_OF_MEMORY)


def _failure(error: Exception) -> Failure:  # noqa: PLR0911 - one line a reason
    """What the user is told of an error: never its text where that may name our paths."""
    match error:
        case AttemptFailed():
            return error.failure
        case Halted(reason=Reason.DEADLINE):
            return OVERDUE
        case OSError() | obstore.exceptions.BaseError():
            return Failure(
                FailureCause.INTERNAL, "the storage, or the worker's disk, did not take or give a file"
            )
        case CorruptFileError():
            return Failure(FailureCause.INTERNAL, "a stored file of the job is damaged")
        case ValidationError():
            return Failure(
                FailureCause.INVALID_INPUT,
                "this release does not understand the job's recipe",
                "recipe",
                "submit the job again with a recipe of this release",
            )
        case RefusedError():
            return Failure(FailureCause.INTERNAL, "the trainer produced a student that is not a usable model")
        case _:
            return Failure(FailureCause.INTERNAL, "the worker met an error of its own while it ran the job")
