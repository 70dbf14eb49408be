"""What a user may ask of a job that is there: to end, to wait, to go on, to finish early, to be tried again.

Asking twice changes nothing. A job that waits obeys here and now; a running one belongs to its worker, which
learns of the wish with its next heartbeat.
"""

from typing import Any

from sqlalchemy import func
from sqlalchemy.orm import Session

from core.db import NOW
from core.errors import Conflict
from core.jobs import events, repository
from core.jobs.claims import after
from core.jobs.models import Job
from core.jobs.repository import PlacedJob
from core.jobs.states import FINAL, JobStatus
from core.jobs.transitions import transition
from mixkd.contract.problems import Problem


def cancel(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """Ask for a job's end. It is too late to ask a job that has ended, and changes nothing.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.lock(session, owner_id, job_id)
    if job.status == JobStatus.RUNNING:
        _wish(session, job, "cancel_requested")
    elif job.status not in FINAL:
        _move(session, job, JobStatus.CANCELLED, "cancelled", cancel_requested_at=func.clock_timestamp())
    return repository.get(session, owner_id, job_id)


def pause(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """Let a job wait, until it is resumed. A running one writes a checkpoint first, and frees its worker.

    Raises:
        Conflict: it has ended, or its end was asked for.
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.lock(session, owner_id, job_id)
    if job.status in FINAL or job.cancel_requested_at is not None:
        raise _too_late(job, "paused")
    if job.status == JobStatus.QUEUED:
        _move(session, job, JobStatus.PAUSED, "paused")
    elif job.status == JobStatus.RUNNING:
        _wish(session, job, "pause_requested")
    return repository.get(session, owner_id, job_id)


def resume(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """Queue a paused job again; of a running one, take the request to pause it back.

    Raises:
        Conflict: it has ended, or its end was asked for.
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.lock(session, owner_id, job_id)
    if job.status in FINAL or job.cancel_requested_at is not None:
        raise _too_late(job, "resumed")
    if job.status == JobStatus.PAUSED:
        _move(session, job, JobStatus.QUEUED, "resumed", queued_at=NOW)
    elif job.pause_requested_at is not None:
        job.pause_requested_at = None
        session.flush()
        events.append(session, job_id, "resumed")
    return repository.get(session, owner_id, job_id)


def finish(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """Let the training that is under way stop at its next step and count with its best weights so far.

    Raises:
        Conflict: it is not running, or its end was asked for.
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.lock(session, owner_id, job_id)
    if job.status != JobStatus.RUNNING or job.cancel_requested_at is not None:
        raise _too_late(job, "finished early", "let it run first: only a training has something to keep")
    _wish(session, job, "finish_requested")
    return repository.get(session, owner_id, job_id)


def retry(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """Queue a job again that failed or was cancelled. It goes on from its last checkpoint, with all its tries
    and all the time up to its deadline anew.

    Raises:
        Conflict: it has succeeded, or is not cancelled yet.
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.lock(session, owner_id, job_id)
    if job.status == JobStatus.SUCCEEDED or _is_ending(job):
        raise _too_late(job, "retried")
    if job.status in FINAL:
        deadline = None if job.deadline_seconds is None else after(job.deadline_seconds)
        _move(
            session,
            job,
            JobStatus.QUEUED,
            "retried",
            queued_at=NOW,
            charged_failures=0,
            cancel_requested_at=None,
            deadline_at=deadline,
        )
    return repository.get(session, owner_id, job_id)


def prioritise(session: Session, owner_id: str, job_id: str, priority: int) -> PlacedJob:
    """Change the place of a job that waits: queued or paused.

    Raises:
        Conflict: it does not wait any more.
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.lock(session, owner_id, job_id)
    if job.status not in (JobStatus.QUEUED, JobStatus.PAUSED):
        raise _too_late(job, "given another priority", "pause it, if others should go first")
    if job.priority != priority:
        job.priority = priority
        session.flush()
        events.append(session, job_id, "priority", priority=priority)
    return repository.get(session, owner_id, job_id)


def _wish(session: Session, job: Job, what: str) -> None:
    column = f"{what}_at"
    if getattr(job, column) is None:
        setattr(job, column, func.clock_timestamp())
        session.flush()
        events.append(session, job.id, what)


def _move(session: Session, job: Job, after: JobStatus, event: str, **columns: Any) -> None:
    transition(session, job.id, JobStatus(job.status), after, event=event, **columns)


def _is_ending(job: Job) -> bool:
    return job.cancel_requested_at is not None and job.status not in FINAL


def _too_late(job: Job, what: str, remedy: str | None = None) -> Conflict:
    """A refusal; `remedy` is that of a job which has not ended and is not about to."""
    now = f"{job.status} and about to be cancelled" if _is_ending(job) else job.status
    if job.status == JobStatus.SUCCEEDED:
        remedy = "submit a new job"
    elif job.status in FINAL:
        remedy = "retry it first"
    elif _is_ending(job):
        remedy = "retry it once it is cancelled"
    detail = f"a job that is {now} cannot be {what}"
    return Conflict(detail, Problem("job_id", detail, job.id, remedy))
