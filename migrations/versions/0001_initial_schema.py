"""The first tables: owners, keys, data sets, models, workers, jobs and their history."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSONB = postgresql.JSONB(none_as_null=True)
TIME = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")


def upgrade() -> None:
    op.create_table(
        "owners",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_owners")),
        sa.UniqueConstraint("name", name=op.f("uq_owners_name")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=100), nullable=False),
        sa.Column("started_at", TIME, server_default=NOW, nullable=False),
        sa.Column("seen_at", TIME, server_default=NOW, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_api_keys_owner_id_owners")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
    )
    op.create_index(op.f("ix_api_keys_owner_id"), "api_keys", ["owner_id"], unique=False)
    op.create_table(
        "datasets",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("refusal", JSONB, nullable=True),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("columns", JSONB, nullable=False),
        sa.Column("files", JSONB, nullable=False),
        sa.Column("report", JSONB, nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "(status = 'ready') = (fingerprint IS NOT NULL)", name=op.f("ck_datasets_ready_has_print")
        ),
        sa.CheckConstraint(
            "(status = 'ready') = (report IS NOT NULL)", name=op.f("ck_datasets_ready_has_report")
        ),
        sa.CheckConstraint(
            "(status = 'refused') = (refusal IS NOT NULL)", name=op.f("ck_datasets_refused_has_reason")
        ),
        sa.CheckConstraint("format IN ('jsonl', 'csv', 'tsv')", name=op.f("ck_datasets_format")),
        sa.CheckConstraint("status IN ('importing', 'ready', 'refused')", name=op.f("ck_datasets_status")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_datasets_owner_id_owners")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
    )
    op.create_index(op.f("ix_datasets_owner_id"), "datasets", ["owner_id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("resource_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["owner_id"], ["owners.id"], name=op.f("fk_idempotency_keys_owner_id_owners")
        ),
        sa.PrimaryKeyConstraint("owner_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=1000), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("refusal", JSONB, nullable=True),
        sa.Column("prefix", sa.String(length=200), nullable=False),
        sa.Column("files", JSONB, nullable=True),
        sa.Column("info", JSONB, nullable=True),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.CheckConstraint(
            "(kind = 'student') = (source IS NULL)", name=op.f("ck_models_teacher_has_source")
        ),
        sa.CheckConstraint(
            "(status = 'ready') = (files IS NOT NULL)", name=op.f("ck_models_ready_has_files")
        ),
        sa.CheckConstraint("(status = 'ready') = (info IS NOT NULL)", name=op.f("ck_models_ready_has_info")),
        sa.CheckConstraint(
            "(status = 'refused') = (refusal IS NOT NULL)", name=op.f("ck_models_refused_has_reason")
        ),
        sa.CheckConstraint("kind IN ('teacher', 'student')", name=op.f("ck_models_kind")),
        sa.CheckConstraint("status IN ('importing', 'ready', 'refused')", name=op.f("ck_models_status")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_models_owner_id_owners")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
    )
    op.create_index(op.f("ix_models_owner_id"), "models", ["owner_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("teacher_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.Column("recipe", JSONB, nullable=False),
        sa.Column("priority", sa.Integer(), server_default="50", nullable=False),
        sa.Column("status", sa.String(length=16), server_default="queued", nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("queued_at", TIME, server_default=NOW, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("cancel_requested_at", TIME, nullable=True),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("charged_failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default="3", nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("worker_id", sa.String(length=40), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=True),
        sa.Column("progress", JSONB, nullable=True),
        sa.Column("failure_cause", sa.String(length=32), nullable=True),
        sa.Column("failure", JSONB, nullable=True),
        sa.Column("student_id", sa.String(length=40), nullable=True),
        sa.Column("report", JSONB, nullable=True),
        sa.Column("event_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(status = 'failed') = (failure_cause IS NOT NULL)", name=op.f("ck_jobs_failed_has_cause")
        ),
        sa.CheckConstraint(
            "(status = 'running') = (lease_expires_at IS NOT NULL)", name=op.f("ck_jobs_lease_ends")
        ),
        sa.CheckConstraint(
            "(status = 'running') = (lease_token IS NOT NULL)", name=op.f("ck_jobs_running_has_lease")
        ),
        sa.CheckConstraint(
            "(status = 'running') = (worker_id IS NOT NULL)", name=op.f("ck_jobs_running_has_worker")
        ),
        sa.CheckConstraint(
            "(status = 'succeeded') = (report IS NOT NULL)", name=op.f("ck_jobs_success_has_report")
        ),
        sa.CheckConstraint(
            "(status = 'succeeded') = (student_id IS NOT NULL)", name=op.f("ck_jobs_success_has_student")
        ),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_final_has_end"),
        ),
        sa.CheckConstraint(
            "failure_cause IN ('invalid_input', 'out_of_memory', 'diverged', 'worker_lost'"
            ", 'deadline_exceeded', 'internal')",
            name=op.f("ck_jobs_failure_cause"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_jobs_status"),
        ),
        sa.CheckConstraint(
            "charged_failures BETWEEN 0 AND max_attempts", name=op.f("ck_jobs_charged_failures")
        ),
        sa.CheckConstraint(
            "failure IS NULL OR status = 'failed'", name=op.f("ck_jobs_only_failed_has_failure")
        ),
        sa.CheckConstraint(
            "phase IN ('prepare', 'teach', 'distil', 'evaluate', 'export', 'publish')",
            name=op.f("ck_jobs_phase"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('queued', 'paused') OR (phase IS NULL AND progress IS NULL)",
            name=op.f("ck_jobs_waiting_has_no_phase"),
        ),
        sa.CheckConstraint("fence >= 0", name=op.f("ck_jobs_fence")),
        sa.CheckConstraint("priority BETWEEN 0 AND 100", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_jobs_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_jobs_owner_id_owners")),
        sa.ForeignKeyConstraint(["student_id"], ["models.id"], name=op.f("fk_jobs_student_id_models")),
        sa.ForeignKeyConstraint(["teacher_id"], ["models.id"], name=op.f("fk_jobs_teacher_id_models")),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name=op.f("fk_jobs_worker_id_workers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_claim",
        "jobs",
        [sa.literal_column("priority DESC"), "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "ix_jobs_lease",
        "jobs",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index("ix_jobs_owner_id_id", "jobs", ["owner_id", "id"], unique=False)
    op.create_table(
        "job_attempts",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("worker_id", sa.String(length=40), nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=False),
        sa.Column("started_at", TIME, server_default=NOW, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("cause", sa.String(length=32), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("log_tail", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "cause IN ('invalid_input', 'out_of_memory', 'diverged', 'worker_lost'"
            ", 'deadline_exceeded', 'internal')",
            name=op.f("ck_job_attempts_cause"),
        ),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'cancelled', 'paused', 'handed_back', 'lost')",
            name=op.f("ck_job_attempts_outcome"),
        ),
        sa.CheckConstraint(
            "coalesce(outcome IN ('failed', 'lost'), false) = (cause IS NOT NULL)",
            name=op.f("ck_job_attempts_failure_has_cause"),
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_job_attempts_ended_has_outcome")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_attempts_job_id_jobs")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_job_attempts_owner_id_owners")),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name=op.f("fk_job_attempts_worker_id_workers")
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_job_attempts")),
        sa.UniqueConstraint("lease_token", name=op.f("uq_job_attempts_lease_token")),
    )
    op.create_index(
        "uq_job_attempts_open",
        "job_attempts",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("at", TIME, server_default=NOW, nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("data", JSONB, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_job_events_owner_id_owners")),
        sa.PrimaryKeyConstraint("job_id", "seq", name=op.f("pk_job_events")),
    )
    op.create_table(
        "job_metrics",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner_id", sa.String(length=40), nullable=False),
        sa.Column("at", TIME, server_default=NOW, nullable=False),
        sa.Column("values", JSONB, nullable=False),
        sa.CheckConstraint(
            "phase IN ('prepare', 'teach', 'distil', 'evaluate', 'export', 'publish')",
            name=op.f("ck_job_metrics_phase"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_metrics_job_id_jobs")),
        sa.ForeignKeyConstraint(["owner_id"], ["owners.id"], name=op.f("fk_job_metrics_owner_id_owners")),
        sa.PrimaryKeyConstraint("job_id", "phase", "step", name=op.f("pk_job_metrics")),
    )


def downgrade() -> None:
    op.drop_table("job_metrics")
    op.drop_table("job_events")
    op.drop_table("job_attempts")
    op.drop_table("jobs")
    op.drop_table("models")
    op.drop_table("idempotency_keys")
    op.drop_table("datasets")
    op.drop_table("api_keys")
    op.drop_table("workers")
    op.drop_table("owners")
