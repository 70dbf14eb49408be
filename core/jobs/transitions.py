"""The one way a job changes its state: along the table of arrows, with its event in the same transaction."""

from typing import Any

from sqlalchemy import ColumnElement, true, update
from sqlalchemy.orm import Session

from core.db import NOW
from core.jobs.models import Job, JobEvent
from core.jobs.states import FINAL, JobStatus, may_follow


def transition(
    session: Session,
    job_id: str,
    now: JobStatus,
    after: JobStatus,
    *,
    event: str,
    data: dict[str, Any] | None = None,
    only_if: ColumnElement[bool] | None = None,
    **columns: Any,
) -> bool:
    """Move a job from one state to another and append the event, in the caller's transaction.

    Args:
        only_if: a further condition on the row, such as the worker's lease.
        columns: what else to set; what follows from the new state alone is set here.

    Returns:
        Whether it moved. False: the job was not in state `now`, or `only_if` did not hold.

    Raises:
        ValueError: the table of transitions has no such arrow.
    """
    if not may_follow(now, after):
        raise ValueError(f"a job cannot go from {now} to {after}")
    condition = true() if only_if is None else only_if
    moved = session.execute(
        update(Job)
        .where(Job.id == job_id, Job.status == now, condition)
        .values({"status": after, "event_seq": Job.event_seq + 1} | _follows_from(after) | columns)
        .returning(Job.event_seq, Job.owner_id)
    ).one_or_none()
    if moved is None:
        return False
    seq, owner_id = moved
    session.add(JobEvent(job_id=job_id, seq=seq, owner_id=owner_id, type=event, data=data or {}))
    session.flush()
    return True


def _follows_from(state: JobStatus) -> dict[str, Any]:
    """The columns that a state decides by itself."""
    columns: dict[str, Any] = {"finished_at": NOW if state in FINAL else None, "not_before": None}
    if state is not JobStatus.RUNNING:
        columns |= {"lease_token": None, "lease_expires_at": None, "worker_id": None}
        columns["pause_requested_at"] = None
    if state in FINAL:
        columns["finish_requested_at"] = None
    else:
        columns |= {"phase": None, "phase_started_at": None, "progress": None}
        columns |= {"failure": None, "failure_cause": None}
    return columns
