"""What a user can do with jobs: submit and read them. `core.jobs.wishes` has what they may ask of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from core.datasets.models import Dataset
from core.errors import InvalidInput, NotFound
from core.imports import ImportStatus
from core.jobs import events, repository
from core.jobs.claims import after
from core.jobs.models import Job, JobAttempt, JobEvent, JobMetric
from core.jobs.repository import PlacedJob
from core.jobs.states import FINAL, JobStatus
from core.models.models import Model
from core.paging import Page
from mixkd.contract import fit
from mixkd.contract.folder import ModelInfo
from mixkd.contract.problems import Problem
from mixkd.contract.rows import DatasetReport
from mixkd.contract.spec import DistilSpec


@dataclass(frozen=True)
class Resources:
    """What a worker must have to run a job.

    Args:
        device: `any`, `cpu` (a worker without a GPU) or `gpu`.
        gpu_type: a part of the GPU's name, in any case, such as `h100`.
        gpus: how many, at least.
    """

    device: str = "any"
    gpu_type: str | None = None
    gpus: int = 1


def create(
    session: Session,
    owner_id: str,
    job_id: str,
    *,
    name: str | None,
    teacher_id: str,
    dataset_id: str,
    recipe: DistilSpec,
    priority: int,
    max_attempts: int,
    resources: Resources,
    deadline_seconds: int | None,
) -> PlacedJob:
    """Queue a distillation that can work; the caller wakes a worker once this has committed.

    The whole recipe is stored, defaults included: what a job did must not change with a later release.

    Raises:
        InvalidInput: with everything that is wrong: teacher or data set missing or not ready, or the recipe
            does not fit them.
    """
    teacher = repository.teacher(session, owner_id, teacher_id)
    dataset = repository.dataset(session, owner_id, dataset_id)
    problems = [
        *_unusable("teacher_id", teacher_id, "model", teacher),
        *_unusable("dataset_id", dataset_id, "data set", dataset),
    ]
    if teacher and dataset and not problems:
        problems = fit.problems(
            recipe, ModelInfo.model_validate(teacher.info), DatasetReport.model_validate(dataset.report)
        )
    if problems or not teacher or not dataset:
        raise InvalidInput("; ".join(f"{p.field}: {p.problem}" for p in problems), *problems)
    job = Job(
        id=job_id,
        owner_id=owner_id,
        name=name or f"{teacher.name} on {dataset.name}"[:200],
        teacher_id=teacher_id,
        dataset_id=dataset_id,
        recipe=recipe.model_dump(mode="json"),
        priority=priority,
        max_attempts=max_attempts,
        device=resources.device,
        gpu_type=resources.gpu_type,
        gpus=resources.gpus,
        deadline_seconds=deadline_seconds,
        deadline_at=None if deadline_seconds is None else after(deadline_seconds),
    )
    session.add(job)
    session.flush()
    events.append(session, job_id, "queued")
    return repository.get(session, owner_id, job_id)


def _unusable(field: str, given: str, what: str, found: Model | Dataset | None) -> list[Problem]:
    if found is None:
        return [Problem(field, f"there is no {what} of that id", given, f"register the {what} first")]
    if found.status == ImportStatus.IMPORTING:
        return [Problem(field, f"the {what} is still being imported", given, "wait until it is ready")]
    if found.status == ImportStatus.REFUSED:
        return [Problem(field, f"the {what} was refused", given, "see its `refusal` and register it anew")]
    return []


def get(session: Session, owner_id: str, job_id: str) -> PlacedJob:
    """One job and its place in the queue.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    return repository.get(session, owner_id, job_id)


def is_told(session: Session, owner_id: str, job_id: str, after: int) -> bool:
    """Whether the job has ended and its events go no further than number `after`.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    job = repository.get(session, owner_id, job_id).job
    return job.status in FINAL and job.event_seq <= after


def page(
    session: Session, owner_id: str, *, status: JobStatus | None, limit: int, cursor: str | None
) -> Page[PlacedJob]:
    """Jobs, newest first."""
    return repository.page(session, owner_id, status=status, limit=limit, cursor=cursor)


def page_events(
    session: Session, owner_id: str, job_id: str, *, after: int, limit: int, cursor: str | None
) -> Page[JobEvent]:
    """What happened to a job, oldest first.

    Raises:
        NotFound: there is no such job, or it is another owner's.
    """
    repository.require(session, owner_id, job_id)
    return repository.events(session, owner_id, job_id, after=after, limit=limit, cursor=cursor)


def page_metrics(
    session: Session,
    owner_id: str,
    job_id: str,
    *,
    phase: str | None,
    after: int | None,
    limit: int,
    cursor: str | None,
) -> Page[JobMetric]:
    """Numbers logged at steps, in the order of the phases and steps.

    Raises:
        InvalidInput: `after` counts the steps of one phase, and none was named.
        NotFound: there is no such job, or it is another owner's.
    """
    if after is not None and phase is None:
        raise InvalidInput.of(
            "after", "steps are counted in each phase", value=after, remedy="add `phase`, or use `cursor`"
        )
    repository.require(session, owner_id, job_id)
    return repository.metrics(
        session,
        owner_id,
        job_id,
        phase=phase,
        after=-1 if after is None else after,
        limit=limit,
        cursor=cursor,
    )


def attempts(session: Session, owner_id: str, job_id: str) -> Sequence[JobAttempt]:
    """The runs of a job, oldest first.

    Raises:
        NotFound: there is no such job, or it is another owner's.
    """
    repository.require(session, owner_id, job_id)
    return repository.attempts(session, owner_id, job_id)


def report(session: Session, owner_id: str, job_id: str) -> dict[str, Any]:
    """A successful job's report card.

    Raises:
        NotFound: there is no such job, it is another owner's, or it has no report (yet).
    """
    job = repository.get(session, owner_id, job_id).job
    if job.report is None:
        raise _not_there(job_id, "report", job.status)
    return job.report


def student(session: Session, owner_id: str, job_id: str) -> Model:
    """The model that a successful job produced.

    Raises:
        NotFound: there is no such job, it is another owner's, or it has no student (yet).
    """
    status, model = repository.student(session, owner_id, job_id)
    if model is None:
        raise _not_there(job_id, "student", status)
    return model


def _not_there(job_id: str, what: str, status: str) -> NotFound:
    detail = f"the job is {status}: only a job that succeeded has a {what}"
    return NotFound(detail, Problem("job_id", detail, job_id, "follow the job until it has succeeded"))
