"""What a user sees of jobs, in SQL. Every query names the owner: another's job does not exist."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from sqlalchemy import Row, case, exists, select, tuple_
from sqlalchemy.orm import Session

from core import paging
from core.datasets.models import Dataset
from core.errors import NotFound
from core.jobs import order
from core.jobs.models import Job, JobAttempt, JobEvent, JobMetric
from core.jobs.states import JobStatus
from core.models.models import Model
from core.paging import Page
from core.workers.models import Worker
from mixkd.contract.messages import Phase

_PLACES = {phase: place for place, phase in enumerate(get_args(Phase))}  # in the order of a run


@dataclass(frozen=True)
class PlacedJob:
    """A job, what the things that it names are called, and its place in the queue.

    Args:
        ran_on: the device of the worker of its newest attempt; None: no worker has had it.
        queue_position: 1 is claimed next; None unless it is queued.
    """

    job: Job
    teacher_name: str
    dataset_name: str
    ran_on: str | None
    queue_position: int | None


def get(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """One job as it is now in the database.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    row = session.execute(
        _SHOWN.where(Job.id == job_id, Job.owner_id == owner_id).execution_options(populate_existing=True)
    ).one_or_none()
    if row is None:
        raise _not_found(job_id)
    return _placed(session, [row])[0]


def page(
    session: Session, owner_id: str, *, status: JobStatus | None, limit: int, cursor: str | None
) -> Page[PlacedJob]:
    """Jobs, newest first."""
    query = _SHOWN.where(Job.owner_id == owner_id)
    if status is not None:
        query = query.where(Job.status == status)
    rows = session.execute(paging.newest_first(query, Job.id, limit, cursor)).all()
    return paging.cut(_placed(session, rows), limit, lambda placed: placed.job.id)


_SHOWN = (
    select(Job, Model.name, Dataset.name, Worker.device)
    .join(Model, Model.id == Job.teacher_id)
    .join(Dataset, Dataset.id == Job.dataset_id)
    .outerjoin(JobAttempt, (JobAttempt.job_id == Job.id) & (JobAttempt.number == Job.fence))
    .outerjoin(Worker, Worker.id == JobAttempt.worker_id)
)


def _placed(session: Session, rows: Sequence[Row[Job, str, str, str]]) -> list[PlacedJob]:
    queued = [row.Job.id for row in rows if row.Job.status == JobStatus.QUEUED]
    positions = order.positions(session, queued) if queued else {}
    return [PlacedJob(*row, queue_position=positions.get(row.Job.id)) for row in rows]


def lock(session: Session, owner_id: str, job_id: str) -> Job:
    """One job, locked until the transaction ends.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    job = session.scalars(
        select(Job).where(Job.id == job_id, Job.owner_id == owner_id).with_for_update()
    ).one_or_none()
    if job is None:
        raise _not_found(job_id)
    return job


def require(session: Session, owner_id: str, job_id: str) -> None:
    """See that this owner has that job.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    if not session.scalar(select(exists().where(Job.id == job_id, Job.owner_id == owner_id))):
        raise _not_found(job_id)


def teacher(session: Session, owner_id: str, model_id: str) -> Model | None:
    """The owner's model of that id."""
    return session.scalars(
        select(Model).where(Model.id == model_id, Model.owner_id == owner_id)
    ).one_or_none()


def dataset(session: Session, owner_id: str, dataset_id: str) -> Dataset | None:
    """The owner's data set of that id."""
    return session.scalars(
        select(Dataset).where(Dataset.id == dataset_id, Dataset.owner_id == owner_id)
    ).one_or_none()


def student(session: Session, owner_id: str, job_id: str) -> tuple[str, Model | None]:
    """A job's status and the model that it produced, if it has.

    Raises:
        NotFound: there is no such job, or it is another owner's.
    """
    row = session.execute(
        select(Job.status, Model)
        .outerjoin(Model, Job.student_id == Model.id)
        .where(Job.id == job_id, Job.owner_id == owner_id)
    ).one_or_none()
    if row is None:
        raise _not_found(job_id)
    return row.status, row.Model


def events(
    session: Session, owner_id: str, job_id: str, *, after: int, limit: int, cursor: str | None = None
) -> Page[JobEvent]:
    """Events with a number above `after`, oldest first."""
    if cursor is not None:
        after = max(after, *_numbers(cursor, 1))
    rows = session.scalars(
        select(JobEvent)
        .where(JobEvent.job_id == job_id, JobEvent.owner_id == owner_id, JobEvent.seq > after)
        .order_by(JobEvent.seq)
        .limit(limit + 1)
    ).all()
    return paging.cut(rows, limit, lambda event: str(event.seq))


def metrics(
    session: Session,
    owner_id: str,
    job_id: str,
    *,
    phase: str | None,
    after: int,
    limit: int,
    cursor: str | None,
) -> Page[JobMetric]:
    """Metrics of steps above `after`, in the order of the phases and steps."""
    place = case(_PLACES, value=JobMetric.phase)
    query = select(JobMetric).where(
        JobMetric.job_id == job_id, JobMetric.owner_id == owner_id, JobMetric.step > after
    )
    if phase is not None:
        query = query.where(JobMetric.phase == phase)
    if cursor is not None:
        query = query.where(tuple_(place, JobMetric.step) > tuple_(*_numbers(cursor, 2)))
    rows = session.scalars(query.order_by(place, JobMetric.step).limit(limit + 1)).all()
    return paging.cut(rows, limit, _place)


def cursor_after(metric: JobMetric) -> str:
    """The cursor of a page of metrics that begins after this one."""
    return paging.encode(_place(metric))


def _place(metric: JobMetric) -> str:
    return f"{_PLACES[metric.phase]}.{metric.step}"


def _numbers(cursor: str, count: int) -> list[int]:
    parts = paging.decode(cursor).split(".")
    if len(parts) != count or not all(part.isdecimal() and len(part) <= 18 for part in parts):
        raise paging.bad_cursor(cursor)
    return [int(part) for part in parts]


def attempts(session: Session, owner_id: str, job_id: str) -> Sequence[JobAttempt]:
    """The runs of a job, oldest first."""
    return session.scalars(
        select(JobAttempt)
        .where(JobAttempt.job_id == job_id, JobAttempt.owner_id == owner_id)
        .order_by(JobAttempt.number)
    ).all()


def _not_found(job_id: str) -> NotFound:
    return NotFound(f"there is no job {job_id}")
