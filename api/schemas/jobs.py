"""Jobs on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.schemas.common import FileEntry, Name, PageQuery, Reference, Request
from core.jobs.models import Job, JobAttempt, JobEvent, JobMetric
from core.jobs.repository import PlacedJob
from core.jobs.states import FailureCause, JobStatus
from core.models.models import Model
from mixkd.contract.data_spec import MetricName
from mixkd.contract.messages import Phase
from mixkd.contract.spec import DistilSpec

MOST_STEPS = 2**31 - 1  # what the database's integers hold
MOST_SECONDS = 366 * 24 * 3600
MOST_EVENTS = 2**53 - 1  # what every JSON reader holds


class ResourcesBody(Request):
    """What a worker must have to run the job."""

    device: Literal["any", "cpu", "gpu"] = Field(
        "any", description="`cpu`: a worker without a GPU; `gpu`: one with"
    )
    gpu_type: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .+/-]+$")] | None = Field(
        None, description="a part of the GPU's name in any case, such as `h100`; only with `device: gpu`"
    )
    gpus: int = Field(1, ge=1, le=64, description="how many, at least; more than 1 only with `device: gpu`")

    @model_validator(mode="after")
    def _only_a_gpu_has_a_type(self) -> "ResourcesBody":
        if self.device != "gpu" and (self.gpu_type is not None or self.gpus > 1):
            raise PydanticCustomError("resources", "`gpu_type` and `gpus` need `device: gpu`")
        return self


class JobCreate(Request):
    """A distillation to be done."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "MiniLM for questions",
                    "teacher_id": "mdl_01k3v0q2c7y6j5h4g3f2d1s0aq",
                    "dataset_id": "ds_01k3v0pmz8w9r7t6y5u4i3o2pb",
                    "recipe": {"student": {"layers": 3}, "distil": {"epochs": 2}, "seed": 7},
                }
            ]
        }
    )

    name: Name | None = Field(None, description="made of the teacher's and the data set's if left out")
    teacher_id: Reference
    dataset_id: Reference
    recipe: DistilSpec = Field(DistilSpec(), description="what is left out has its default")
    priority: int = Field(
        50,
        ge=0,
        le=100,
        description="higher is sooner; then the owner with fewer running jobs, then the older job",
    )
    resources: ResourcesBody = ResourcesBody()
    deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=MOST_SECONDS,
        description="the job fails if it has not ended so long after its submission, waiting included",
    )


class JobChange(Request):
    """What may be changed of a job that waits."""

    priority: int = Field(ge=0, le=100)


class JobQuery(PageQuery):
    """Which jobs to list."""

    status: JobStatus | None = None


class EventQuery(PageQuery):
    """Which events to list."""

    after: int = Field(0, ge=0, le=MOST_EVENTS, description="only events with a higher `seq`")


class StreamQuery(Request):
    """Where a stream starts."""

    after: int = Field(0, ge=0, le=MOST_EVENTS, description="as Last-Event-ID, which takes precedence")


class MetricQuery(PageQuery):
    """Which metrics to list."""

    limit: int = Field(1000, ge=1, le=10_000)
    phase: Phase | None = None
    after: int | None = Field(None, ge=0, le=MOST_STEPS, description="only later steps; needs `phase`")


class ProgressView(BaseModel):
    """How far the present phase is, as the trainer last said."""

    phase: Phase
    step: int
    steps: int = Field(description="0: this phase has no countable steps")
    loss: float | None = None
    examples_per_second: float | None = None
    seconds_left: float | None = None


class ResourcesView(BaseModel):
    """What a worker must have to run the job."""

    device: Literal["any", "cpu", "gpu"]
    gpu_type: str | None
    gpus: int


class CheckpointView(BaseModel):
    """Where a next attempt would go on."""

    attempt: int
    phase: Phase
    step: int


class ScoresView(BaseModel):
    """The student's best score beside its teacher's."""

    metric: MetricName = Field(description="the first one of the data set; of `rmse` less is better")
    set: str = Field(description="`validation` while it trains, then the set that the report judges on")
    teacher: float | None = Field(description="null if it was not evaluated yet")
    student: float | None


class FailureView(BaseModel):
    """Why a job failed, in words to act on."""

    cause: FailureCause
    detail: str
    field: str | None = None
    remedy: str | None = None


class JobView(BaseModel):
    """A job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "job_01k3v12m5n7p9q1r3s5t7v9w1x",
                    "name": "MiniLM for questions",
                    "status": "running",
                    "queue_position": None,
                    "teacher_id": "mdl_01k3v0q2c7y6j5h4g3f2d1s0aq",
                    "teacher_name": "our BERT",
                    "dataset_id": "ds_01k3v0pmz8w9r7t6y5u4i3o2pb",
                    "dataset_name": "questions",
                    "recipe": DistilSpec().model_dump(mode="json"),
                    "priority": 50,
                    "resources": {"device": "any", "gpu_type": None, "gpus": 1},
                    "phase": "distil",
                    "progress": {
                        "phase": "distil",
                        "step": 120,
                        "steps": 306,
                        "loss": 0.41,
                        "examples_per_second": 310.5,
                        "seconds_left": 19.2,
                    },
                    "scores": {"metric": "accuracy", "set": "validation", "teacher": 0.93, "student": 0.91},
                    "ran_on": "NVIDIA H100",
                    "failure": None,
                    "student_id": None,
                    "attempts": 1,
                    "checkpoint": {"attempt": 1, "phase": "distil", "step": 100},
                    "cancel_requested_at": None,
                    "pause_requested_at": None,
                    "finish_requested_at": None,
                    "not_before": None,
                    "deadline_at": None,
                    "created_at": "2025-06-01T12:00:00Z",
                    "queued_at": "2025-06-01T12:00:00Z",
                    "started_at": "2025-06-01T12:00:01Z",
                    "finished_at": None,
                }
            ]
        }
    )

    id: str
    name: str
    status: JobStatus
    queue_position: int | None = Field(description="1 is next; null unless queued")
    teacher_id: str
    teacher_name: str
    dataset_id: str
    dataset_name: str
    recipe: DistilSpec = Field(description="in full, defaults included")
    priority: int
    resources: ResourcesView
    phase: Phase | None
    progress: ProgressView | None
    scores: ScoresView | None = Field(description="the best so far; null before the first evaluation")
    ran_on: str | None = Field(description="the device of the newest attempt; null before the first one")
    failure: FailureView | None
    student_id: str | None
    attempts: int = Field(description="how often a worker has taken the job")
    checkpoint: CheckpointView | None = Field(description="what a next attempt would go on from")
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    finish_requested_at: datetime | None
    not_before: datetime | None = Field(description="when a job that failed is tried again")
    deadline_at: datetime | None
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, placed: PlacedJob) -> "JobView":
        """The job as its owner sees it."""
        job = placed.job
        columns = {
            name: getattr(job, name) for name in cls.model_fields.keys() & job.__mapper__.columns.keys()
        }
        return cls.model_validate(
            columns
            | {
                "teacher_name": placed.teacher_name,
                "dataset_name": placed.dataset_name,
                "ran_on": placed.ran_on,
                "queue_position": placed.queue_position,
                "failure": _failure(job),
                "attempts": job.fence,
                "resources": {"device": job.device, "gpu_type": job.gpu_type, "gpus": job.gpus},
                "checkpoint": next(iter(job.checkpoints), None),
            }
        )


def _failure(job: Job) -> dict[str, Any] | None:
    if job.failure_cause is None:
        return None
    return {"cause": job.failure_cause, "detail": "", **(job.failure or {})}


class EventView(BaseModel):
    """Something that happened to a job."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "seq": 3,
                    "at": "2025-06-01T12:00:09Z",
                    "type": "phase",
                    "data": {"phase": "distil", "steps": 306, "attempt": 1},
                }
            ]
        },
    )

    seq: int = Field(description="from 1, without gaps")
    at: datetime
    type: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> "EventView":
        """The event as its owner sees it."""
        return cls.model_validate(event)


class MetricView(BaseModel):
    """Numbers that were logged at a step of a phase."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {"phase": "distil", "step": 120, "at": "2025-06-01T12:00:21Z", "values": {"loss": 0.41}}
            ]
        },
    )

    phase: Phase
    step: int
    at: datetime
    values: dict[str, float]

    @classmethod
    def of(cls, metric: JobMetric) -> "MetricView":
        """The metric as its owner sees it."""
        return cls.model_validate(metric)


class AttemptView(BaseModel):
    """One run of a job by a worker."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "number": 1,
                    "worker_id": "wrk_01k3v0zzy8x7w6v5t4s3r2q1pn",
                    "started_at": "2025-06-01T12:00:01Z",
                    "ended_at": "2025-06-01T12:00:31Z",
                    "outcome": "failed",
                    "cause": "out_of_memory",
                    "phase_seconds": {"prepare": 4.2, "distil": 25.8},
                    "exit_code": -9,
                    "log_tail": "",
                }
            ]
        },
    )

    number: int
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Literal["succeeded", "failed", "cancelled", "paused", "handed_back", "lost"] | None
    cause: FailureCause | None
    phase_seconds: dict[str, float] = Field(description="how long each phase took, as far as it has ended")
    exit_code: int | None
    log_tail: str | None

    @classmethod
    def of(cls, attempt: JobAttempt) -> "AttemptView":
        """The attempt as its owner sees it: never the lease's token."""
        return cls.model_validate(attempt)


class AttemptList(BaseModel):
    """All runs of a job, oldest first; there are few."""

    items: list[AttemptView]


class StudentView(BaseModel):
    """The files of a student."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_id": "mdl_01k3v13b2c4d6f8g1h3j5k7m9n",
                    "files": [
                        {
                            "path": "model.safetensors",
                            "size": 69_555_032,
                            "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                        }
                    ],
                }
            ]
        }
    )

    model_id: str
    files: list[FileEntry]

    @classmethod
    def of(cls, model: Model) -> "StudentView":
        """The student as its owner sees it."""
        return cls(model_id=model.id, files=FileEntry.manifest(model.files or {}))


REPORT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Report",
    "description": "The report card as the trainer wrote it; docs/reference/report.md lists every field.",
    "required": ["format", "teacher", "student", "comparison", "variant", "recipe", "seed", "data", "distil"],
    "properties": {
        "format": {"enum": [1, 2], "description": "1: of a job that an earlier release ran"},
        "teacher": {"type": "object", "description": "sizes and speed of the teacher"},
        "student": {"type": "object", "description": "the same of the student"},
        "comparison": {
            "type": "object",
            "description": "student / teacher",
        },
        "sets": {
            "type": "object",
            "description": "by evaluation set: scores of teacher and student with 95 % intervals, and more",
        },
        "judged_on": {"type": "string", "description": "the set that the comparison is of"},
        "baselines": {"type": "object", "description": "students of the same budget with simpler losses"},
        "variant": {"type": "object", "description": "which MixKD this was, in words"},
        "recipe": {"$ref": "#/components/schemas/DistilSpec"},
        "seed": {"type": "integer"},
        "data": {"type": "object", "description": "labels, splits, and the SHA-256 of each file"},
        "teach": {"type": ["object", "null"], "description": "null if the teacher was used as it came"},
        "distil": {"type": "object", "description": "steps, epochs, the best epoch and its scores"},
    },
}
"""Written by hand: the card's model is the trainer's, which the API must not import."""
