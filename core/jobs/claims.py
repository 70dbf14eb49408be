"""A worker's right to a job, and everything that it may write while it has that right.

A claim mints a lease: a token and an end, by the database's clock. Every later write carries the token and
finds no row once somebody else owns the job (`LeaseLostError`). An attempt is settled at most once: asked
again for the same end, as after a commit whose answer was lost, the functions below find it and do nothing.

Each function is one short transaction's work; the caller commits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import ColumnElement, DateTime, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.datasets.models import Dataset
from core.db import NOW
from core.ids import new_id
from core.imports import ImportStatus
from core.jobs import events
from core.jobs.models import Job, JobAttempt, JobMetric
from core.jobs.states import RETRIED, FailureCause, JobStatus
from core.jobs.transitions import transition
from core.models.models import Model
from core.storage import StoredFile
from mixkd.contract.messages import Metric, Phase, Progress
from mixkd.contract.spec import RuntimeSpec

Outcome = Literal["succeeded", "failed", "cancelled", "paused", "handed_back", "lost"]


class LeaseLostError(Exception):
    """The job is no longer this worker's: whatever it does for it now is in vain."""


class CancelledError(Exception):
    """The user's request to cancel was there first; the success was not recorded."""


@dataclass(frozen=True)
class Claim:
    """A job that is ours until the lease ends, with all that is needed to run it."""

    job_id: str
    token: UUID
    fence: int
    recipe: dict[str, Any]
    teacher_prefix: str
    teacher_files: dict[str, StoredFile]
    data_prefix: str
    data_files: dict[str, tuple[str, StoredFile]]  # split -> path under the prefix, what it must be
    data_reading: dict[str, Any]  # mixkd.contract.data_spec.Reading

    @property
    def prefix(self) -> str:
        """Where this attempt, and no other, may store files."""
        return _prefix(self.job_id, self.fence)


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


def claim(session: Session, worker_id: str, token: UUID, lease_seconds: float) -> Claim | None:
    """Take the best queued job: the highest priority, then the longest in the queue.

    Args:
        token: minted by the caller, who after a lost answer asks again with the same one and gets
            the job that it already has.
    """
    if (mine := _claimed(session, token)) is not None:
        return mine
    best = session.execute(
        select(Job.id, Job.owner_id, Job.fence)
        .where(Job.status == JobStatus.QUEUED)
        .order_by(Job.priority.desc(), Job.queued_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if best is None:
        return None
    job_id, owner_id, fence = best.id, best.owner_id, best.fence + 1
    transition(
        session,
        job_id,
        JobStatus.QUEUED,
        JobStatus.RUNNING,
        event="claimed",
        data={"attempt": fence, "worker_id": worker_id},
        fence=fence,
        lease_token=token,
        lease_expires_at=_in(lease_seconds),
        worker_id=worker_id,
        started_at=func.coalesce(Job.started_at, NOW),
    )
    session.add(
        JobAttempt(job_id=job_id, number=fence, owner_id=owner_id, worker_id=worker_id, lease_token=token)
    )
    session.flush()
    return _claimed(session, token)


def renew(session: Session, token: UUID, lease_seconds: float) -> bool:
    """Keep the job for another `lease_seconds`; whether its cancellation was asked for meanwhile.

    Raises:
        LeaseLostError: somebody else owns it, or it has ended.
    """
    row = session.execute(
        update(Job)
        .where(_mine(token))
        .values(lease_expires_at=_in(lease_seconds))
        .returning(Job.cancel_requested_at)
    ).one_or_none()
    if row is None:
        raise LeaseLostError
    return row.cancel_requested_at is not None


def enter_phase(session: Session, token: UUID, phase: Phase, steps: int = 0) -> None:
    """Record that a phase began; entering the present one again changes nothing.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _locked(session, token)
    if job.phase == phase:
        return
    job.phase = phase
    job.progress = None
    session.flush()
    events.append(session, job.id, "phase", phase=phase, steps=steps, attempt=job.fence)


def resolved(session: Session, token: UUID, runtime: RuntimeSpec) -> None:
    """Keep what an attempt chose of what the recipe leaves open: every later one computes in the same way.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    _locked(session, token).runtime = runtime.model_dump(mode="json")
    session.flush()


def note(session: Session, token: UUID, detail: str) -> None:
    """Record what the trainer thinks the user should know.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _locked(session, token)
    events.append(session, job.id, "note", detail=detail, attempt=job.fence)


def progress(session: Session, token: UUID, last: Progress) -> None:
    """Show how far the phase is. Only the last value is kept.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job_id = session.scalar(
        update(Job).where(_mine(token)).values(progress=last.model_dump(exclude={"type"})).returning(Job.id)
    )
    if job_id is None:
        raise LeaseLostError


def metrics(session: Session, token: UUID, values: Sequence[Metric]) -> None:
    """Keep numbers; those of one step are put together, and a number given again replaces the earlier.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _locked(session, token)
    at_step: dict[tuple[str, int], dict[str, float]] = {}
    for metric in values:
        at_step.setdefault((metric.phase, metric.step), {}).update(metric.values)
    if not at_step:
        return
    new = insert(JobMetric).values(
        [
            {"job_id": job.id, "owner_id": job.owner_id, "phase": phase, "step": step, "values": numbers}
            for (phase, step), numbers in at_step.items()
        ]
    )
    session.execute(
        new.on_conflict_do_update(
            index_elements=[JobMetric.job_id, JobMetric.phase, JobMetric.step],
            set_={"values": JobMetric.values.concat(new.excluded["values"]), "at": NOW},
        )
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
        prefix=f"{_prefix(job.id, job.fence)}/student",
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
        only_if=_mine(token),
        student_id=student.id,
        report=dict(report),
    )


def fail(session: Session, token: UUID, failure: Failure) -> JobStatus:
    """End the attempt, charge the job for it, and queue it again if its cause may pass by itself.

    A request to cancel wins over both.

    Returns:
        The job's state now; for a repeated call, FAILED.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _to_settle(session, token, "failed")
    if job is None:
        return JobStatus.FAILED
    _settle(session, job, token, "failed", failure)
    return _charge(session, job, failure)


def hand_back(session: Session, token: UUID, reason: str) -> JobStatus:
    """Give the job up uncharged and at its old place in the queue, because the worker must stop.

    Returns:
        The job's state now: QUEUED, or CANCELLED if that was asked for.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = _to_settle(session, token, "handed_back")
    if job is None:
        return JobStatus.QUEUED
    if job.cancel_requested_at is not None:
        return _cancel(session, job, token)
    _settle(session, job, token, "handed_back")
    _requeue(session, job, reason)
    return JobStatus.QUEUED


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
            remedy="submit the job again; if it happens again, ask the operator to look at the workers",
        )
        _settle(session, job, job.lease_token, "lost", lost)
        ended.append((job.id, _charge(session, job, lost)))
    return ended


def _prefix(job_id: str, fence: int) -> str:
    return f"jobs/{job_id}/{fence}"


def _in(seconds: float) -> ColumnElement[Any]:
    return func.clock_timestamp(type_=DateTime(timezone=True)) + timedelta(seconds=seconds)


def _mine(token: UUID) -> ColumnElement[bool]:
    """The fence: no write of a running job goes without it."""
    return (Job.lease_token == token) & (Job.status == JobStatus.RUNNING)


def _lock(session: Session, token: UUID) -> Job | None:
    """Our job, its row locked until the commit; None if it is ours no longer."""
    return session.scalars(
        select(Job).where(_mine(token)).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()


def _locked(session: Session, token: UUID) -> Job:
    job = _lock(session, token)
    if job is None:
        raise LeaseLostError
    return job


def _to_settle(session: Session, token: UUID, outcome: Outcome) -> Job | None:
    """Our job, locked; None if the attempt already ended so: a commit whose answer was lost.

    The lock comes first: it waits for an earlier commit that is still under way.
    """
    job = _lock(session, token)
    if job is None:
        ended_so = session.scalar(select(JobAttempt.outcome).where(JobAttempt.lease_token == token))
        if ended_so != outcome:
            raise LeaseLostError
    return job


def _claimed(session: Session, token: UUID) -> Claim | None:
    row = session.execute(
        select(Job, Model, Dataset)
        .join(JobAttempt, (JobAttempt.job_id == Job.id) & (JobAttempt.lease_token == token))
        .join(Model, Model.id == Job.teacher_id)
        .join(Dataset, Dataset.id == Job.dataset_id)
        .where(_mine(token))
        .execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        return None
    job, teacher, data = row
    return Claim(
        job_id=job.id,
        token=token,
        fence=job.fence,
        recipe=job.recipe if job.runtime is None else {**job.recipe, "runtime": job.runtime},
        teacher_prefix=teacher.prefix,
        teacher_files={path: _stored(file) for path, file in (teacher.files or {}).items()},
        data_prefix=f"datasets/{data.id}",
        data_files={split: (file["path"], _stored(file)) for split, file in data.files.items()},
        data_reading=data.read_as.model_dump(mode="json"),
    )


def _stored(file: Mapping[str, Any]) -> StoredFile:
    return StoredFile(file["size"], file["sha256"])


def _settle(
    session: Session, job: Job, token: UUID, outcome: Outcome, failure: Failure | None = None
) -> None:
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


def _charge(session: Session, job: Job, failure: Failure) -> JobStatus:
    """Where a locked job goes after a failed attempt."""
    charged = job.charged_failures + 1
    if job.cancel_requested_at is not None:
        _end_cancelled(session, job)
        return JobStatus.CANCELLED
    if failure.cause in RETRIED and charged < job.max_attempts:
        # To the back of the queue: a job that kills its workers must not starve the others.
        _requeue(session, job, failure.cause, queued_at=NOW, charged_failures=charged)
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
