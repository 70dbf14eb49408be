"""Workers report in, so that the service knows how many live and which are idle."""

from datetime import timedelta

from sqlalchemy import DateTime, exists, func, select, update
from sqlalchemy.orm import Session

from core.db import NOW
from core.jobs.models import Job
from core.jobs.states import JobStatus
from core.workers.models import Worker


def register(session: Session, worker_id: str, hostname: str, pid: int, device: str) -> None:
    """A worker process has started."""
    session.add(Worker(id=worker_id, hostname=hostname[:255], pid=pid, device=device[:100]))
    session.flush()


def heartbeat(session: Session, worker_id: str) -> None:
    """A worker process lives."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(seen_at=NOW))


def idle(session: Session, seen_within_seconds: float) -> int:
    """How many workers reported in lately and have no job."""
    since = func.clock_timestamp(type_=DateTime(timezone=True)) - timedelta(seconds=seen_within_seconds)
    busy = exists().where(Job.worker_id == Worker.id, Job.status == JobStatus.RUNNING)
    count = select(func.count()).select_from(Worker).where(Worker.seen_at >= since, ~busy)
    return session.scalars(count).one()
