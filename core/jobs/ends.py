"""How an attempt ends, and where that leaves its job.

An attempt is settled at most once: asked again for the same end, as after a commit whose answer was lost,
the functions below find it and do nothing. A request to cancel wins over any other end but a success that is
there already; a request to pause over going back to the queue.

Each function is one short transaction's work; the caller commits.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.db import NOW
from core.ids import new_id
from core.imports import ImportStatus
from core.jobs import scores
from core.jobs.claims import LeaseLostError, after, end_phase, lock, mine, prefix
from core.jobs.models import Job, JobAttempt
from core.jobs.states import FailureCause, JobStatus, retry_delay
from core.jobs.transitions import transition
from core.models.models import Model
from core.storage import StoredFile
from core.workers.models import Worker

Outcome = Literal["succeeded", "failed", "cancelled", "paused", "handed_back", "lost"]
LEFT: Mapping[Outcome, JobStatus] = {
    "handed_back": JobStatus.QUEUED,
    "paused": JobStatus.PAUSED,
    "cancelled": JobStatus.CANCELLED,
}
"""The ways in which a worker leaves a job without a result, and where the job is then."""


class CancelledError(Exception):
    """The user's request to cancel was there first; the success was not recorded."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed. `detail`, `field` and `remedy` are for the user, the rest for the operator."""

    cause: FailureCause
    detail: str
    field: str | None = None
    remedy: str | None = None
    exit_code: int | None = None
    log_tail: str | None = None

    @property
    def shown(self) -> dict[str, Any]:
        """What the user sees of it, apart from the cause."""
        return {"detail": self.detail, "field": self.field, "remedy": self.remedy}


OVERDUE = Failure(
    FailureCause.DEADLINE_EXCEEDED,
    "the job's deadline has passed",
    "deadline_seconds",
    "retry it: it goes on from its last checkpoint, with as much time again",
)


def succeed(
    session: Session,
    token: UUID,
    files: Mapping[str, StoredFile],
    info: Mapping[str, Any],
    report: Mapping[str, Any],
) -> None:
    """Make the student known and end the job, in one transaction.

    Args:
        files: the student's manifest, paths relative to the attempt's `student/`.
        info: the student's `ModelInfo`.

    Raises:
        CancelledError: its cancellation was asked for before; nothing is recorded.
        LeaseLostError: the job is no longer ours.
    """
    job = _to_settle(session, token, "succeeded")
    if job is None:
        return
    if job.cancel_requested_at is not None:
        raise CancelledError
    student = Model(
        id=new_id("mdl"),
        owner_id=job.owner_id,
        name=job.name,
        kind="student",
        status=ImportStatus.READY,
        prefix=f"{prefix(job.id, job.fence)}/student",
        files={path: asdict(file) for path, file in files.items()},
        info=dict(info),
    )
    session.add(student)
    session.flush()
    _settle(session, job, token, "succeeded")
    transition(
        session,
        job.id,
        JobStatus.RUNNING,
        JobStatus.SUCCEEDED,
        event="succeeded",
        data={"attempt": job.fence, "student_id": student.id},
        only_if=mine(token),
        student_id=student.id,
        report=dict(report),
        scores=scores.reported(report) or job.scores,
        checkpoints=[],
    )


def fail(session: Session, token: UUID, failure: Failure, retry_seconds: float = 0) -> JobStatus:
    """End the attempt, charge the job for it, and queue it again if its cause may pass by itself.

    A request to cancel wins over both.

    Args:
        retry_seconds: how long the job waits before it is tried again, usually: see `retry_delay`.

    Returns:
        The job's state now; for a repeated call, FAILED.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _to_settle(session, token, "failed")
    if job is None:
        return JobStatus.FAILED
    _settle(session, job, token, "failed", failure)
    return _charge(session, job, failure, retry_seconds)


def hand_back(session: Session, token: UUID, reason: str) -> JobStatus:
    """Give the job up uncharged and at its old place in the queue, because the worker must stop.

    Returns:
        The job's state now: QUEUED, or PAUSED or CANCELLED if that was asked for.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _to_settle(session, token, *LEFT)
    if job is None:
        return LEFT[_outcome(session, token)]
    if job.cancel_requested_at is not None:
        return _cancel(session, job, token)
    if job.pause_requested_at is not None:
        return _pause(session, job, token)
    _settle(session, job, token, "handed_back")
    _requeue(session, job, reason)
    return JobStatus.QUEUED


def paused(session: Session, token: UUID) -> JobStatus:
    """Stop as the job's user asked, until they resume it; if they have thought better of it, hand it back.

    Returns:
        The job's state now: PAUSED, QUEUED, or CANCELLED if that was asked for.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    return hand_back(session, token, "resumed")


def cancelled(session: Session, token: UUID) -> None:
    """End the job as its user asked.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _to_settle(session, token, "cancelled")
    if job is not None:
        _cancel(session, job, token)


def expire_leases(session: Session, limit: int = 100) -> list[tuple[str, JobStatus]]:
    """Take jobs away from workers that have not renewed in time; each with its state now.

    The attempt is `lost` and charged. Several reconcilers may do this at once.
    """
    late = session.scalars(
        select(Job)
        .where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < NOW)
        .order_by(Job.lease_expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    ended = []
    for job in late:
        assert job.lease_token is not None
        lost = Failure(
            FailureCause.WORKER_LOST,
            "the worker that ran the job stopped answering",
            remedy="retry the job; if it happens again, ask the operator to look at the workers",
        )
        session.execute(
            update(Worker).where(Worker.id == job.worker_id).values(leases_lost=Worker.leases_lost + 1)
        )
        _settle(session, job, job.lease_token, "lost", lost)
        ended.append((job.id, _charge(session, job, lost, 0)))
    return ended


def fail_overdue(session: Session, limit: int = 100) -> list[str]:
    """End the jobs that wait, queued or paused, past their deadline. A running one is ended by its worker."""
    late = session.scalars(
        select(Job)
        .where(Job.status.in_((JobStatus.QUEUED, JobStatus.PAUSED)), Job.deadline_at <= NOW)
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    for job in late:
        transition(
            session,
            job.id,
            JobStatus(job.status),
            JobStatus.FAILED,
            event="failed",
            data={"attempt": job.fence, "cause": OVERDUE.cause} | OVERDUE.shown,
            failure_cause=OVERDUE.cause,
            failure=OVERDUE.shown,
        )
    return [job.id for job in late]


def _to_settle(session: Session, token: UUID, *outcomes: Outcome) -> Job | None:
    """Our job, locked; None if the attempt ended in one of these ways already: a commit's answer was lost.

    The lock comes first: it waits for an earlier commit that is still under way.
    """
    job = lock(session, token)
    if job is None and _outcome(session, token) not in outcomes:
        raise LeaseLostError
    return job


def _outcome(session: Session, token: UUID) -> Outcome:
    found = session.scalar(select(JobAttempt.outcome).where(JobAttempt.lease_token == token))
    return cast("Outcome", found)  # a CHECK knows no others


def _settle(
    session: Session, job: Job, token: UUID, outcome: Outcome, failure: Failure | None = None
) -> None:
    end_phase(session, job, token)
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == job.id, JobAttempt.lease_token == token)
        .values(
            outcome=outcome,
            ended_at=NOW,
            cause=failure and failure.cause,
            exit_code=failure and failure.exit_code,
            log_tail=failure and failure.log_tail,
        )
    )


def _cancel(session: Session, job: Job, token: UUID) -> JobStatus:
    _settle(session, job, token, "cancelled")
    _end_cancelled(session, job)
    return JobStatus.CANCELLED


def _pause(session: Session, job: Job, token: UUID) -> JobStatus:
    _settle(session, job, token, "paused")
    _end_paused(session, job)
    return JobStatus.PAUSED


def _end_paused(session: Session, job: Job, **columns: Any) -> None:
    transition(
        session,
        job.id,
        JobStatus.RUNNING,
        JobStatus.PAUSED,
        event="paused",
        data={"attempt": job.fence},
        **columns,
    )


def _end_cancelled(session: Session, job: Job) -> None:
    transition(
        session,
        job.id,
        JobStatus.RUNNING,
        JobStatus.CANCELLED,
        event="cancelled",
        data={"attempt": job.fence},
    )


def _requeue(session: Session, job: Job, reason: str, **columns: Any) -> None:
    transition(
        session,
        job.id,
        JobStatus.RUNNING,
        JobStatus.QUEUED,
        event="requeued",
        data={"attempt": job.fence, "reason": reason},
        **columns,
    )


def _charge(session: Session, job: Job, failure: Failure, retry_seconds: float) -> JobStatus:
    """Where a locked job goes after a failed attempt."""
    charged = job.charged_failures + 1
    if job.cancel_requested_at is not None:
        _end_cancelled(session, job)
        return JobStatus.CANCELLED
    delay = retry_delay(failure.cause, charged, retry_seconds)
    if delay is not None and charged < job.max_attempts:
        if job.pause_requested_at is not None:
            _end_paused(session, job, charged_failures=charged)
            return JobStatus.PAUSED
        # To the back of the queue: a job that kills its workers must not starve the others.
        later = {"queued_at": NOW, "not_before": after(delay)}
        _requeue(session, job, failure.cause, charged_failures=charged, **later)
        return JobStatus.QUEUED
    transition(
        session,
        job.id,
        JobStatus.RUNNING,
        JobStatus.FAILED,
        event="failed",
        data={"attempt": job.fence, "cause": failure.cause} | failure.shown,
        charged_failures=charged,
        failure_cause=failure.cause,
        failure=failure.shown,
    )
    return JobStatus.FAILED
