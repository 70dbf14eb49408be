"""A worker's right to a job, and everything that it may write while it has that right.

A claim mints a lease: a token and an end, by the database's clock. Every later write carries the token and
finds no row once somebody else owns the job (`LeaseLostError`). How an attempt ends is in `core.jobs.ends`.

Each function is one short transaction's work; the caller commits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, DateTime, Numeric, case, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.datasets.models import Dataset
from core.db import NOW
from core.jobs import events, order, scores
from core.jobs.models import Job, JobAttempt, JobMetric
from core.jobs.states import JobStatus
from core.jobs.transitions import transition
from core.models.models import Model
from core.storage import StoredFile
from core.workers.models import Worker
from mixkd.contract.messages import Metric, Phase, Progress
from mixkd.contract.spec import RuntimeSpec

KEPT_CHECKPOINTS = 2  # the one before serves if the newest turns out to be damaged


class LeaseLostError(Exception):
    """The job is no longer this worker's: whatever it does for it now is in vain."""


class CheckpointFile(BaseModel):
    """Where a file of a checkpoint lies in storage, and what it must be."""

    key: str
    size: int
    sha256: str

    @property
    def stored(self) -> StoredFile:
        """As the storage compares it."""
        return StoredFile(self.size, self.sha256)


class StoredCheckpoint(BaseModel):
    """What an attempt left in storage for the next one; `files` by their path in the run's folder."""

    attempt: int
    phase: Phase
    step: int
    files: dict[str, CheckpointFile]


@dataclass(frozen=True)
class Wishes:
    """What a worker learns of its job when it renews the lease."""

    cancel: bool
    pause: bool
    finish: datetime | None  # when it was asked: a later time is another wish
    overdue: bool


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
    checkpoints: tuple[StoredCheckpoint, ...]  # of earlier attempts, the newest first

    @property
    def prefix(self) -> str:
        """Where this attempt, and no other, may store files."""
        return prefix(self.job_id, self.fence)


def claim(
    session: Session,
    worker_id: str,
    token: UUID,
    lease_seconds: float,
    *,
    most_running: int | None = None,
    again: bool = False,
) -> Claim | None:
    """Take the queued job whose turn it is, see `core.jobs.order`.

    Args:
        token: minted by the caller.
        most_running: jobs that one owner may run at a time, unless the owner's row says otherwise.
        again: the answer to the same claim was lost: if it did commit, the job is ours, and for another
            `lease_seconds`.

    Raises:
        LeaseLostError: it did commit, and is over already.
    """
    if again and (ours := _claimed(session, token)) is not None:
        renew(session, token, lease_seconds)
        return ours
    found = order.take(session, session.get_one(Worker, worker_id), most_running)
    if found is None:
        return None
    fence = found.fence + 1
    transition(
        session,
        found.id,
        JobStatus.QUEUED,
        JobStatus.RUNNING,
        event="claimed",
        data={"attempt": fence, "worker_id": worker_id},
        fence=fence,
        lease_token=token,
        lease_expires_at=after(lease_seconds),
        worker_id=worker_id,
        started_at=func.coalesce(Job.started_at, NOW),
        scores=case((Job.checkpoints != [], Job.scores)),  # of weights that are gone: null
    )
    session.add(
        JobAttempt(
            job_id=found.id, number=fence, owner_id=found.owner_id, worker_id=worker_id, lease_token=token
        )
    )
    session.flush()
    return _claimed(session, token)


def renew(session: Session, token: UUID, lease_seconds: float) -> Wishes:
    """Keep the job for another `lease_seconds`; says what its user has asked for meanwhile.

    Raises:
        LeaseLostError: somebody else owns it, or it has ended.
    """
    row = session.execute(
        update(Job)
        .where(mine(token))
        .values(lease_expires_at=after(lease_seconds))
        .returning(
            Job.cancel_requested_at.is_not(None),
            Job.pause_requested_at.is_not(None),
            Job.finish_requested_at,
            func.coalesce(Job.deadline_at <= NOW, False),
        )
    ).one_or_none()
    if row is None:
        raise LeaseLostError
    return Wishes(*row)


def enter_phase(session: Session, token: UUID, phase: Phase, steps: int = 0) -> None:
    """Record that a phase began; entering the present one again changes nothing.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = locked(session, token)
    if job.phase == phase:
        return
    end_phase(session, job, token)
    job.phase = phase
    job.phase_started_at = func.clock_timestamp()
    job.progress = None
    session.flush()
    events.append(session, job.id, "phase", phase=phase, steps=steps, attempt=job.fence)


def end_phase(session: Session, job: Job, token: UUID) -> None:
    """Add the time since the present phase of a locked job began to its attempt's account."""
    if job.phase is None or job.phase_started_at is None:
        return
    took = func.extract("epoch", func.clock_timestamp() - job.phase_started_at)
    before = func.coalesce(JobAttempt.phase_seconds[job.phase].as_float(), 0.0)
    total = func.jsonb_build_object(job.phase, func.round(cast(before + took, Numeric), 3))
    session.execute(
        update(JobAttempt)
        .where(JobAttempt.job_id == job.id, JobAttempt.lease_token == token)
        .values(phase_seconds=JobAttempt.phase_seconds.concat(total))
    )


def resolved(session: Session, token: UUID, runtime: RuntimeSpec) -> None:
    """Keep what an attempt chose of what the recipe leaves open: every later one computes in the same way.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    locked(session, token).runtime = runtime.model_dump(mode="json")
    session.flush()


def said(session: Session, token: UUID, last: int) -> int:
    """Count what a trainer has said that becomes events, so that nothing is written down twice.

    Args:
        last: the number of what is written in this transaction last.

    Returns:
        The number of what was written before; more than the caller knows of, if a commit's answer was lost.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = locked(session, token)
    attempt = session.get_one(JobAttempt, (job.id, job.fence), populate_existing=True)
    before, attempt.said = attempt.said, last
    session.flush()
    return before


def note(session: Session, token: UUID, detail: str) -> None:
    """Record what the trainer thinks the user should know.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = locked(session, token)
    events.append(session, job.id, "note", detail=detail, attempt=job.fence)


def keep_checkpoint(
    session: Session, token: UUID, new: StoredCheckpoint, damaged: Sequence[StoredCheckpoint] = ()
) -> list[StoredCheckpoint]:
    """Let later attempts go on from a checkpoint whose files lie in storage.

    Args:
        damaged: these are kept no longer, or they would take the place of one that is whole.

    Returns:
        All that are kept, this one first.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = locked(session, token)
    before = [StoredCheckpoint.model_validate(one) for one in job.checkpoints]
    if before[:1] == [new]:  # a commit whose answer was lost
        return before
    kept = [new, *(one for one in before if one != new and one not in damaged)][:KEPT_CHECKPOINTS]
    job.checkpoints = [one.model_dump(mode="json") for one in kept]
    session.flush()
    events.append(session, job.id, "checkpoint", phase=new.phase, step=new.step, attempt=job.fence)
    return kept


def finishing(session: Session, token: UUID) -> None:
    """The trainer did what a request to finish asks for; the next request is a new one.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = locked(session, token)
    if job.finish_requested_at is not None:
        job.finish_requested_at = None
        session.flush()
        events.append(session, job.id, "finished_early", phase=job.phase, attempt=job.fence)


def progress(session: Session, token: UUID, last: Progress) -> None:
    """Show how far the phase is. Only the last value is kept.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job_id = session.scalar(
        update(Job).where(mine(token)).values(progress=last.model_dump(exclude={"type"})).returning(Job.id)
    )
    if job_id is None:
        raise LeaseLostError


def metrics(session: Session, token: UUID, values: Sequence[Metric]) -> None:
    """Keep numbers; those of one step are put together, and a number given again replaces the earlier.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = locked(session, token)
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
    if any(name.startswith(scores.VALIDATION) for metric in values for name in metric.values):
        chooses = session.get_one(Dataset, job.dataset_id).read_as.scored_by[0]
        job.scores = scores.evaluated(job.scores, chooses, values)


def prefix(job_id: str, fence: int) -> str:
    """Where an attempt, and no other, stores files."""
    return f"jobs/{job_id}/{fence}"


def after(seconds: float) -> ColumnElement[Any]:
    """So long from now, by the database's clock."""
    return func.clock_timestamp(type_=DateTime(timezone=True)) + timedelta(seconds=seconds)


def mine(token: UUID) -> ColumnElement[bool]:
    """The fence: no write of a running job goes without it."""
    return (Job.lease_token == token) & (Job.status == JobStatus.RUNNING)


def lock(session: Session, token: UUID) -> Job | None:
    """Our job, its row locked until the commit; None if it is ours no longer."""
    return session.scalars(
        select(Job).where(mine(token)).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()


def locked(session: Session, token: UUID) -> Job:
    """Our job, its row locked until the commit.

    Raises:
        LeaseLostError: the job is no longer ours.
    """
    job = lock(session, token)
    if job is None:
        raise LeaseLostError
    return job


def _claimed(session: Session, token: UUID) -> Claim | None:
    row = session.execute(
        select(Job, Model, Dataset)
        .join(JobAttempt, (JobAttempt.job_id == Job.id) & (JobAttempt.lease_token == token))
        .join(Model, Model.id == Job.teacher_id)
        .join(Dataset, Dataset.id == Job.dataset_id)
        .where(mine(token))
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
        checkpoints=tuple(StoredCheckpoint.model_validate(one) for one in job.checkpoints),
    )


def _stored(file: Mapping[str, Any]) -> StoredFile:
    return StoredFile(file["size"], file["sha256"])
