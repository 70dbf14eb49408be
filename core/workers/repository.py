"""Workers in SQL."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, column, exists, select, table
from sqlalchemy.orm import Session

from core import paging
from core.paging import Page
from core.workers.models import Worker

# Named, not imported: core.jobs knows of workers, and packages that import each other are refused.
_jobs = table("jobs", column("id"), column("owner_id"), column("worker_id"), column("status"))


@dataclass(frozen=True)
class SeenWorker:
    """A worker as one owner sees it.

    Args:
        busy: it runs a job, whosever.
        job_id: that job, if it is the owner's.
    """

    worker: Worker
    alive: bool
    busy: bool
    job_id: str | None


def page(
    session: Session,
    owner_id: str,
    *,
    shown: ColumnElement[bool],
    alive: ColumnElement[bool],
    limit: int,
    cursor: str | None,
) -> Page[SeenWorker]:
    """The workers of which `shown` is true, by when they started, newest first."""
    runs_here = (_jobs.c.worker_id == Worker.id, _jobs.c.status == "running")
    # A job whose lease has run out still names its worker, which may have taken another since.
    own = (
        select(_jobs.c.id)
        .where(*runs_here, _jobs.c.owner_id == owner_id)
        .order_by(_jobs.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = select(
        Worker, alive.label("alive"), exists().where(*runs_here).label("busy"), own.label("job_id")
    ).where(shown)
    rows = [
        SeenWorker(row.Worker, row.alive, row.busy, row.job_id)
        for row in session.execute(paging.newest_first(query, Worker.id, limit, cursor))
    ]
    return paging.cut(rows, limit, lambda seen: seen.worker.id)
