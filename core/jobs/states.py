"""The life of a job, as data: which state may follow which."""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job is. A *request* to cancel, pause or finish it is a column, not a state."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FailureCause(StrEnum):
    """Why a job failed, in words that a user can act on."""

    INVALID_INPUT = "invalid_input"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    WORKER_LOST = "worker_lost"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
            JobStatus.PAUSED,
            JobStatus.QUEUED,
        }
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),  # retry, by the user
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),  # retry, by the user
}

FINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

RETRIED: Mapping[FailureCause, float] = {
    FailureCause.WORKER_LOST: 0,
    FailureCause.OUT_OF_MEMORY: 2,  # others on the machine may let go of some
    FailureCause.INTERNAL: 1,
}
"""Causes after which the service tries again by itself, for the same input may succeed elsewhere; and how
many times the usual delay it waits first."""

LONGEST_DELAY = 600.0


def retry_delay(cause: FailureCause, failures: int, usual: float) -> float | None:
    """Seconds until a job that has failed so many times is tried again, twice as many with every failure.

    Args:
        usual: seconds after a first failure.

    Returns:
        None: it is not tried again by itself.
    """
    times = RETRIED.get(cause)
    return None if times is None else min(times * usual * 2.0 ** (failures - 1), LONGEST_DELAY)


def may_follow(now: JobStatus, after: JobStatus) -> bool:
    """Whether a job in state `now` may go to state `after`."""
    return after in TRANSITIONS[now]
