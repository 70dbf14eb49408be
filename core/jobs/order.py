"""Whose turn it is: the order in which queued jobs are claimed.

The highest priority first; among equals the owner with the fewest running jobs; then who has waited longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Subquery, and_, exists, func, or_, select, true
from sqlalchemy.orm import Session

from core.accounts.models import Owner
from core.db import NOW
from core.jobs.models import Job
from core.jobs.states import JobStatus
from core.workers import service as workers
from core.workers.models import Worker

_IN_ORDER = (Job.priority.desc(), Job.queued_at, Job.id)
_READY = and_(
    Job.status == JobStatus.QUEUED,
    or_(Job.not_before.is_(None), Job.not_before <= NOW),
    or_(Job.deadline_at.is_(None), Job.deadline_at > NOW),  # else the reconciler ends it
)


@dataclass(frozen=True)
class Next:
    """A job that may be claimed now; its row is locked."""

    id: str
    owner_id: str
    fence: int


def take(session: Session, worker: Worker, most_running: int | None) -> Next | None:
    """The job that this worker should have, locked until the transaction ends.

    Where an owner's jobs are limited, the owner's row is locked too, and their running jobs counted under
    that lock: two claims at once cannot both be the last one that a limit allows. An owner whose row another
    claim holds just now loses the turn, unless nobody else has a job.

    Args:
        most_running: of an owner who has no limit of their own; None: as many as there are workers.
    """
    owners = _owners_in_turn(session, worker, most_running)
    for waits in (False, True):
        for owner_id, limit in owners:
            if limit is None:
                found = _first(session, worker, owner_id)
            else:
                found = _first_within(limit, session, worker, owner_id, waits=waits)
            if found is not None:
                return found
    return None


def _first_within(limit: int, session: Session, worker: Worker, owner_id: str, *, waits: bool) -> Next | None:
    """The owner's first job, and their row locked; without a job, the row is let go at once.

    Two claims that each keep the row of one owner, and wait for the other's, would wait for ever.
    """
    with session.begin_nested() as point:
        if _may_run_one_more(session, owner_id, limit, waits=waits):
            found = _first(session, worker, owner_id)
            if found is not None:
                return found
        point.rollback()
    return None


def _may_run_one_more(session: Session, owner_id: str, limit: int, *, waits: bool) -> bool:
    row = select(Owner.id).where(Owner.id == owner_id).with_for_update(key_share=True, skip_locked=not waits)
    if session.scalar(row) is None:
        return False
    running = select(func.count()).where(Job.owner_id == owner_id, Job.status == JobStatus.RUNNING)
    return session.scalars(running).one() < limit  # by a statement of its own, which sees all that committed


def _first(session: Session, worker: Worker, owner_id: str) -> Next | None:
    found = session.execute(
        select(Job.id, Job.owner_id, Job.fence)
        .where(Job.owner_id == owner_id, _READY, fits(worker))
        .order_by(*_IN_ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    return None if found is None else Next(*found)


def fits(worker: Worker) -> ColumnElement[bool]:
    """The jobs that a worker has the devices for. A GPU is not given to what asks for a CPU."""
    if worker.gpus == 0:
        return Job.device.in_(("any", "cpu"))
    named = func.strpos(worker.device.lower(), func.lower(Job.gpu_type)) > 0
    of_gpus = and_(Job.device == "gpu", Job.gpus <= worker.gpus, or_(Job.gpu_type.is_(None), named))
    return or_(Job.device == "any", of_gpus)


def positions(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Places in the queue of all owners, from 1.

    It is the order in which a worker that fits all would claim them, if none ended meanwhile and no limit
    held one back.
    """
    running = _running_by_owner()
    rank = func.row_number().over(partition_by=Job.owner_id, order_by=_IN_ORDER)
    queue = (
        select(Job.id, Job.priority, Job.queued_at, (func.coalesce(running.c.count, 0) + rank).label("turn"))
        .outerjoin(running, running.c.owner_id == Job.owner_id)
        .where(Job.status == JobStatus.QUEUED)
        .subquery()
    )
    order = (queue.c.priority.desc(), queue.c.turn, queue.c.queued_at, queue.c.id)
    placed = select(queue.c.id, func.row_number().over(order_by=order).label("position")).subquery()
    rows = session.execute(select(placed.c.id, placed.c.position).where(placed.c.id.in_(job_ids)))
    return {row.id: row.position for row in rows}


def idle(session: Session, seen_within_seconds: float) -> Sequence[Worker]:
    """The workers that reported in lately and have no job."""
    busy = exists().where(Job.worker_id == Worker.id, Job.status == JobStatus.RUNNING)
    return session.scalars(select(Worker).where(workers.lives(seen_within_seconds), ~busy)).all()


def waiting_for(session: Session, worker: Worker) -> int:
    """How many queued jobs this worker could have."""
    return session.scalars(select(func.count()).where(_READY, fits(worker))).one()


def _owners_in_turn(
    session: Session, worker: Worker, most_running: int | None
) -> list[tuple[str, int | None]]:
    """Owners who have a job for this worker and may run one more, in turn, each with their limit."""
    running = _running_by_owner()
    count = func.coalesce(running.c.count, 0)
    limit = func.coalesce(Owner.max_running, most_running)
    head = (
        select(Job.id, Job.priority, Job.queued_at)
        .where(Job.owner_id == Owner.id, _READY, fits(worker))
        .order_by(*_IN_ORDER)
        .limit(1)
        .correlate(Owner)
        .lateral()
    )
    query = (
        select(Owner.id, limit)
        .join(head, true())
        .outerjoin(running, running.c.owner_id == Owner.id)
        .where(or_(limit.is_(None), count < limit))
        .order_by(head.c.priority.desc(), count, head.c.queued_at, head.c.id)
    )
    return [(owner_id, most) for owner_id, most in session.execute(query)]


def _running_by_owner() -> Subquery:
    return (
        select(Job.owner_id, func.count().label("count"))
        .where(Job.status == JobStatus.RUNNING)
        .group_by(Job.owner_id)
        .subquery()
    )
