"""The job's append-only history."""

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from core.jobs.models import Job, JobEvent


def append(session: Session, job_id: str, type: str, **data: Any) -> int:  # noqa: A002 - the event's own word
    """Add an event in the caller's transaction; its number.

    The number is taken by updating the job's row, whose lock is held until the commit: events commit in
    the order of their numbers, so no reader can see number n + 1 before n.
    """
    seq, owner_id = session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(event_seq=Job.event_seq + 1)
        .returning(Job.event_seq, Job.owner_id)
    ).one()
    session.add(JobEvent(job_id=job_id, seq=seq, owner_id=owner_id, type=type, data=data))
    session.flush()
    return seq
