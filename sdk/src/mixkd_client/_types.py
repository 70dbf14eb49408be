"""What the service answers, as docs/reference/http-api.md describes it.

Unknown fields are ignored and statuses are plain strings, so that this client keeps working with a
newer service.
"""

from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """The base of everything that the service answers."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Problem(Answer):
    """One thing that is wrong with a request."""

    field: str
    problem: str
    value: Any = None
    remedy: str | None = None

    def __str__(self) -> str:
        given = "" if self.value is None else f" (given: {self.value!r})"
        return f"{self.field}: {self.problem}{given}{f'; {self.remedy}' if self.remedy else ''}"


class ProblemDocument(Answer):
    """An `application/problem+json` document (RFC 9457)."""

    title: str = "Something went wrong"
    status: int = 0
    detail: str = ""
    code: str = "internal"
    request_id: str | None = None
    errors: list[Problem] = []


class Dataset(Answer):
    """A data set: `importing`, `ready` or `refused`."""

    id: str
    name: str
    status: str
    format: str
    columns: dict[str, Any]
    created_at: datetime
    task: str = "single_label"
    reading: dict[str, Any] = {}
    refusal: ProblemDocument | None = None
    report: dict[str, Any] | None = None
    fingerprint: str | None = None


class StudentFile(Answer):
    """One file of a model."""

    path: str
    size: int
    sha256: str


class Model(Answer):
    """A teacher or a student: `importing`, `ready` or `refused`."""

    id: str
    name: str
    kind: str
    status: str
    created_at: datetime
    source: str | None = None
    refusal: ProblemDocument | None = None
    info: dict[str, Any] | None = None
    files: list[StudentFile] | None = None


class Student(Answer):
    """The files that a job produced."""

    model_id: str
    files: list[StudentFile]


class Progress(Answer):
    """How far the present phase is. `loss`, the rate and the time left are unknown at its start."""

    phase: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    examples_per_second: float | None = None
    seconds_left: float | None = None


class Failure(Answer):
    """Why a job failed."""

    cause: str
    detail: str = ""
    field: str | None = None
    remedy: str | None = None


class Resources(Answer):
    """What a worker must have to run a job."""

    device: str = "any"
    gpu_type: str | None = None
    gpus: int = 1


class Checkpoint(Answer):
    """Where a next attempt would go on."""

    attempt: int
    phase: str
    step: int


class Job(Answer):
    """One distillation."""

    id: str
    name: str
    status: str
    teacher_id: str
    dataset_id: str
    recipe: dict[str, Any]
    priority: int
    created_at: datetime
    queue_position: int | None = None
    phase: str | None = None
    progress: Progress | None = None
    failure: Failure | None = None
    student_id: str | None = None
    attempts: int = 0
    resources: Resources = Resources()
    checkpoint: Checkpoint | None = None
    cancel_requested_at: datetime | None = None
    pause_requested_at: datetime | None = None
    finish_requested_at: datetime | None = None
    not_before: datetime | None = None
    deadline_at: datetime | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it unless the user asks."""
        return self.status in FINAL


class Event(Answer):
    """Something that happened to a job; `seq` counts from 1 without gaps."""

    seq: int
    at: datetime
    type: str
    data: dict[str, Any] = {}


class Metric(Answer):
    """Numbers logged at a step of a phase."""

    phase: str
    step: int
    values: dict[str, float]
    at: datetime | None = None


class Attempt(Answer):
    """One run of a job by a worker."""

    number: int
    worker_id: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str | None = None
    cause: str | None = None
    phase_seconds: dict[str, float] = {}
    exit_code: int | None = None
    log_tail: str | None = None


class Gpu(Answer):
    """What a GPU did when its worker last reported: the share of the time in which it worked, and bytes."""

    busy: float
    memory_used: int
    memory_total: int


class Worker(Answer):
    """A worker process. `job_id` is the job that it runs, if that is yours; `busy` tells of others' too."""

    id: str
    hostname: str
    device: str
    gpus: int
    started_at: datetime
    seen_at: datetime
    alive: bool
    busy: bool
    job_id: str | None = None
    gpu_use: list[Gpu] | None = None


T = TypeVar("T")


class Page(Answer, Generic[T]):
    """A part of a list."""

    items: list[T]
    next_cursor: str | None = None


FINAL = frozenset({"succeeded", "failed", "cancelled"})
