"""The tables of a job: the job, its attempts, its events, its metrics.

The CHECKs say which rows can exist at all: a running job has a lease, a finished one an end, a failed
one a cause, a successful one a student.
"""

from datetime import datetime
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from core.db import NOW, Base, one_of
from core.jobs.states import FINAL, FailureCause, JobStatus
from mixkd.contract.messages import Phase

_RUNNING = "status = 'running'"
_FINAL = one_of("status", [status for status in JobStatus if status in FINAL])
DEVICES = ("any", "cpu", "gpu")
_OUTCOMES = ("succeeded", "failed", "cancelled", "paused", "handed_back", "lost")


class Job(Base):
    """One distillation, from its submission to its end."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(one_of("status", JobStatus), name="status"),
        CheckConstraint(f"({_RUNNING}) = (lease_token IS NOT NULL)", name="running_has_lease"),
        CheckConstraint(f"({_RUNNING}) = (lease_expires_at IS NOT NULL)", name="lease_ends"),
        CheckConstraint(f"({_RUNNING}) = (worker_id IS NOT NULL)", name="running_has_worker"),
        CheckConstraint(f"({_FINAL}) = (finished_at IS NOT NULL)", name="final_has_end"),
        CheckConstraint("(status = 'failed') = (failure_cause IS NOT NULL)", name="failed_has_cause"),
        CheckConstraint("failure IS NULL OR status = 'failed'", name="only_failed_has_failure"),
        CheckConstraint(one_of("failure_cause", FailureCause), name="failure_cause"),
        CheckConstraint("(status = 'succeeded') = (student_id IS NOT NULL)", name="success_has_student"),
        CheckConstraint("(status = 'succeeded') = (report IS NOT NULL)", name="success_has_report"),
        CheckConstraint(one_of("phase", get_args(Phase)), name="phase"),
        CheckConstraint(
            "status NOT IN ('queued', 'paused') OR (phase IS NULL AND progress IS NULL)",
            name="waiting_has_no_phase",
        ),
        CheckConstraint(f"pause_requested_at IS NULL OR {_RUNNING}", name="only_running_is_to_pause"),
        CheckConstraint(f"finish_requested_at IS NULL OR NOT ({_FINAL})", name="no_final_is_to_finish"),
        CheckConstraint("not_before IS NULL OR status = 'queued'", name="only_queued_waits"),
        CheckConstraint("(deadline_seconds IS NULL) = (deadline_at IS NULL)", name="deadline"),
        CheckConstraint(one_of("device", DEVICES), name="device"),
        CheckConstraint("device = 'gpu' OR (gpu_type IS NULL AND gpus = 1)", name="only_gpu_has_type"),
        CheckConstraint("gpus BETWEEN 1 AND 64", name="gpus"),
        CheckConstraint("fence >= 0", name="fence"),
        CheckConstraint("priority BETWEEN 0 AND 100", name="priority"),
        CheckConstraint("charged_failures BETWEEN 0 AND max_attempts", name="charged_failures"),
        Index(
            "ix_jobs_queue",
            "owner_id",
            text("priority DESC"),
            "queued_at",
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("ix_jobs_lease", "lease_expires_at", postgresql_where=text("status = 'running'")),
        Index("ix_jobs_running", "owner_id", postgresql_where=text("status = 'running'")),
        Index("ix_jobs_owner_id_id", "owner_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    name: Mapped[str] = mapped_column(String(200))
    teacher_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    recipe: Mapped[dict[str, Any]]  # mixkd.contract.spec.DistilSpec
    runtime: Mapped[dict[str, Any] | None]  # mixkd.contract.spec.RuntimeSpec, as the first attempt chose it
    priority: Mapped[int] = mapped_column(server_default="50")
    device: Mapped[str] = mapped_column(String(8), server_default="any")
    gpu_type: Mapped[str | None] = mapped_column(String(100))  # a part of the GPU's name
    gpus: Mapped[int] = mapped_column(server_default="1")

    status: Mapped[str] = mapped_column(String(16), server_default="queued")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    queued_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]
    finish_requested_at: Mapped[datetime | None]
    not_before: Mapped[datetime | None]  # a failed job is not tried again at once
    deadline_seconds: Mapped[int | None]  # from its submission, or from the user's last retry
    deadline_at: Mapped[datetime | None]

    # The fence rises with every claim and never falls: a storage prefix and a log line name it. What
    # counts against `max_attempts` is `charged_failures`, so that a hand-back is not a failure.
    fence: Mapped[int] = mapped_column(server_default="0")
    charged_failures: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default="3")
    lease_token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    worker_id: Mapped[str | None] = mapped_column(ForeignKey("workers.id"))

    phase: Mapped[str | None] = mapped_column(String(16))
    phase_started_at: Mapped[datetime | None]
    progress: Mapped[dict[str, Any] | None]  # the last mixkd.contract.messages.Progress
    scores: Mapped[dict[str, Any] | None]  # the teacher's and the student's best, see core.jobs.scores
    failure_cause: Mapped[str | None] = mapped_column(String(32))
    failure: Mapped[dict[str, Any] | None]  # detail, field, remedy
    # What a next attempt goes on from, newest first; each as core.jobs.claims.StoredCheckpoint.
    checkpoints: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    student_id: Mapped[str | None] = mapped_column(ForeignKey("models.id"))
    report: Mapped[dict[str, Any] | None]
    event_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")


class JobAttempt(Base):
    """One run of a job by a worker. `number` is the job's fence at the claim."""

    __tablename__ = "job_attempts"
    __table_args__ = (
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended_has_outcome"),
        CheckConstraint(one_of("outcome", _OUTCOMES), name="outcome"),
        CheckConstraint(one_of("cause", FailureCause), name="cause"),
        CheckConstraint(
            "coalesce(outcome IN ('failed', 'lost'), false) = (cause IS NOT NULL)", name="failure_has_cause"
        ),
        Index("uq_job_attempts_open", "job_id", unique=True, postgresql_where=text("outcome IS NULL")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    lease_token: Mapped[UUID] = mapped_column(unique=True)
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(16))
    cause: Mapped[str | None] = mapped_column(String(32))
    said: Mapped[int] = mapped_column(server_default="0")  # so much of what its trainer said is in the events
    phase_seconds: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    exit_code: Mapped[int | None]
    log_tail: Mapped[str | None] = mapped_column(Text)


class JobEvent(Base):
    """Something that happened to a job. Append-only; `seq` is taken under the job's row lock."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]]


class JobMetric(Base):
    """Numbers logged at a step of a phase; written again, the later value stands."""

    __tablename__ = "job_metrics"
    __table_args__ = (CheckConstraint(one_of("phase", get_args(Phase)), name="phase"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    phase: Mapped[str] = mapped_column(String(16), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"))
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    values: Mapped[dict[str, Any]]
