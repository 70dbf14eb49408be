"""The life of a job, as data: which state may follow which."""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job is. A *request* to cancel it is a column, not a state."""

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
    DEADLINE_EXCEEDED = "deadline_exceeded"  # reserved: jobs have no deadline yet
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

RETRIED = frozenset({FailureCause.OUT_OF_MEMORY, FailureCause.WORKER_LOST, FailureCause.INTERNAL})
"""Causes after which the service tries again by itself: the same input may succeed elsewhere."""


def may_follow(now: JobStatus, after: JobStatus) -> bool:
    """Whether a job in state `now` may go to state `after`."""
    return after in TRANSITIONS[now]
