"""Pause, finish, deadlines, resources, checkpoints; states that the database guards by itself

Revision ID: 0003
Revises: 0002

Only adds columns, so that the previous release goes on working on it. What it guards, that release kept to.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSONB = postgresql.JSONB(none_as_null=True)
TIME = sa.DateTime(timezone=True)

# A Column belongs to one table for ever, so that each migration needs its own.
_Columns = dict[str, list[sa.Column[Any]]]


def _columns() -> _Columns:
    return {
        "owners": [sa.Column("max_running", sa.Integer(), nullable=True)],
        "workers": [
            sa.Column("gpus", sa.Integer(), server_default="0", nullable=False),
            sa.Column("gpu_use", JSONB, nullable=True),
            sa.Column("renewals", sa.BigInteger(), server_default="0", nullable=False),
            sa.Column("leases_lost", sa.BigInteger(), server_default="0", nullable=False),
        ],
        "jobs": [
            sa.Column("device", sa.String(length=8), server_default="any", nullable=False),
            sa.Column("gpu_type", sa.String(length=100), nullable=True),
            sa.Column("gpus", sa.Integer(), server_default="1", nullable=False),
            sa.Column("pause_requested_at", TIME, nullable=True),
            sa.Column("finish_requested_at", TIME, nullable=True),
            sa.Column("not_before", TIME, nullable=True),
            sa.Column("deadline_seconds", sa.Integer(), nullable=True),
            sa.Column("deadline_at", TIME, nullable=True),
            sa.Column("phase_started_at", TIME, nullable=True),
            sa.Column("checkpoints", JSONB, server_default=sa.text("'[]'::jsonb"), nullable=False),
        ],
        "job_attempts": [
            sa.Column("phase_seconds", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        ],
    }


_FINAL = "status IN ('succeeded', 'failed', 'cancelled')"
_CHECKS = {
    ("owners", "max_running"): "max_running >= 0",
    ("workers", "gpus"): "gpus >= 0",
    ("jobs", "only_running_is_to_pause"): "pause_requested_at IS NULL OR status = 'running'",
    ("jobs", "no_final_is_to_finish"): f"finish_requested_at IS NULL OR NOT ({_FINAL})",
    ("jobs", "only_queued_waits"): "not_before IS NULL OR status = 'queued'",
    ("jobs", "deadline"): "(deadline_seconds IS NULL) = (deadline_at IS NULL)",
    ("jobs", "device"): "device IN ('any', 'cpu', 'gpu')",
    ("jobs", "only_gpu_has_type"): "device = 'gpu' OR (gpu_type IS NULL AND gpus = 1)",
    ("jobs", "gpus"): "gpus BETWEEN 1 AND 64",
}
_FUNCTIONS = {
    "jobs_follow_arrows": """
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'queued' THEN
            RAISE EXCEPTION 'a job begins as queued, not as %', NEW.status USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NEW.status <> OLD.status AND OLD.status || ' ' || NEW.status <> ALL (ARRAY[{arrows}]) THEN
        RAISE EXCEPTION 'a job cannot go from % to %', OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    ELSIF NEW.fence < OLD.fence THEN
        RAISE EXCEPTION 'the fence of a job cannot fall' USING ERRCODE = 'check_violation';
    END IF;
    -- What no longer applies goes, also where the release before this one writes, which knows nothing of it.
    IF NEW.status <> 'queued' THEN
        NEW.not_before := NULL;
    END IF;
    IF NEW.status <> 'running' THEN
        NEW.pause_requested_at := NULL;
    END IF;
    IF NEW.status IN ('succeeded', 'failed', 'cancelled') THEN
        NEW.finish_requested_at := NULL;
    END IF;
    RETURN NEW;
END """,
    "jobs_write_events": """
BEGIN
    IF NOT EXISTS (SELECT FROM job_events WHERE job_id = NEW.id AND seq > OLD.event_seq) THEN
        RAISE EXCEPTION 'a job went from % to % without an event', OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END """,
    "job_events_stay": """
BEGIN
    RAISE EXCEPTION 'events are only ever added' USING ERRCODE = 'check_violation';
END """,
}
_ARROWS = [
    "queued cancelled", "queued failed", "queued paused", "queued running",
    "running cancelled", "running failed", "running paused", "running queued", "running succeeded",
    "paused cancelled", "paused failed", "paused queued",
    "failed queued",
    "cancelled queued",
]  # fmt: skip
_TRIGGERS = {
    ("jobs", "jobs_arrows"): """
CREATE TRIGGER jobs_arrows BEFORE INSERT OR UPDATE OF status, fence ON jobs
    FOR EACH ROW EXECUTE FUNCTION jobs_follow_arrows()""",
    ("jobs", "jobs_events"): """
CREATE CONSTRAINT TRIGGER jobs_events AFTER UPDATE OF status ON jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.status <> OLD.status) EXECUTE FUNCTION jobs_write_events()""",
    ("job_events", "job_events_stay"): """
CREATE TRIGGER job_events_stay BEFORE UPDATE ON job_events
    FOR EACH ROW EXECUTE FUNCTION job_events_stay()""",
}


def upgrade() -> None:
    for table, columns in _columns().items():
        for column in columns:
            op.add_column(table, column)
    for (table, name), condition in _CHECKS.items():
        op.create_check_constraint(op.f(f"ck_{table}_{name}"), table, condition)
    op.create_index(
        "ix_jobs_queue",
        "jobs",
        ["owner_id", sa.literal_column("priority DESC"), "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.drop_index("ix_jobs_claim", "jobs")
    op.create_index(
        "ix_jobs_running", "jobs", ["owner_id"], unique=False, postgresql_where=sa.text("status = 'running'")
    )
    for name, body in _FUNCTIONS.items():
        text = body.replace("{arrows}", ", ".join(f"'{arrow}'" for arrow in _ARROWS))
        op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $${text}$$")
    for trigger in _TRIGGERS.values():
        op.execute(trigger)


def downgrade() -> None:
    for table, name in _TRIGGERS:
        op.execute(f"DROP TRIGGER {name} ON {table}")
    for name in _FUNCTIONS:
        op.execute(f"DROP FUNCTION {name}")
    op.drop_index("ix_jobs_running", "jobs")
    op.drop_index("ix_jobs_queue", "jobs")
    op.create_index(
        "ix_jobs_claim",
        "jobs",
        [sa.literal_column("priority DESC"), "queued_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'queued'"),
    )
    for table, name in _CHECKS:
        op.drop_constraint(op.f(f"ck_{table}_{name}"), table, type_="check")
    for table, columns in _columns().items():
        for column in columns:
            op.drop_column(table, column.name)
