"""Workers report in, so that the service knows which live and what they have."""

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, DateTime, func, update
from sqlalchemy.orm import Session

from core.db import NOW
from core.paging import Page
from core.workers import repository
from core.workers.models import Worker
from core.workers.repository import SeenWorker

SHOWN_SECONDS = 24 * 3600.0
"""For so long after its last report a worker that is gone is still listed."""


def register(session: Session, worker_id: str, *, hostname: str, pid: int, device: str, gpus: int) -> None:
    """A worker process has started.

    Args:
        device: `cpu`, or the name of its GPUs.
    """
    session.add(Worker(id=worker_id, hostname=hostname[:255], pid=pid, device=device[:100], gpus=gpus))
    session.flush()


def heartbeat(
    session: Session, worker_id: str, *, renewed: bool = False, gpu_use: list[Any] | None = None
) -> None:
    """A worker process lives.

    Args:
        renewed: whether it has just renewed a lease.
        gpu_use: see `Worker.gpu_use`.
    """
    session.execute(
        update(Worker)
        .where(Worker.id == worker_id)
        .values(seen_at=NOW, gpu_use=gpu_use, renewals=Worker.renewals + int(renewed))
    )


def lives(seen_within_seconds: float) -> ColumnElement[bool]:
    """The workers that reported in lately."""
    since = func.clock_timestamp(type_=DateTime(timezone=True)) - timedelta(seconds=seen_within_seconds)
    return Worker.seen_at >= since


def page(
    session: Session, owner_id: str, *, lives_seconds: float, limit: int, cursor: str | None
) -> Page[SeenWorker]:
    """The workers that reported in within `SHOWN_SECONDS`, by when they started, newest first.

    Args:
        owner_id: whose jobs may be named.
        lives_seconds: a worker that has not reported for so long is not alive, see `lives`.

    Raises:
        InvalidInput: the cursor is not one that a page ended with.
    """
    return repository.page(
        session,
        owner_id,
        shown=lives(max(SHOWN_SECONDS, lives_seconds)),
        alive=lives(lives_seconds),
        limit=limit,
        cursor=cursor,
    )
