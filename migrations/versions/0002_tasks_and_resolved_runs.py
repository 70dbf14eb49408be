"""Data sets of any task and of Parquet; what a job's first attempt chose; two more phases

Revision ID: 0002
Revises: 0001

Only adds, so that the previous release goes on working on it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

JSONB = postgresql.JSONB(none_as_null=True)

_PHASES = ("prepare", "teach", "augment", "distil", "baselines", "evaluate", "export", "publish")
_EARLIER_PHASES = ("prepare", "teach", "distil", "evaluate", "export", "publish")
_FORMATS = ("jsonl", "csv", "tsv", "parquet")
_EARLIER_FORMATS = ("jsonl", "csv", "tsv")


def upgrade() -> None:
    op.add_column(
        "datasets",
        sa.Column("reading", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.add_column("jobs", sa.Column("runtime", JSONB, nullable=True))
    _check("datasets", "format", _FORMATS)
    _check("jobs", "phase", _PHASES)
    _check("job_metrics", "phase", _PHASES)


def downgrade() -> None:
    _check("job_metrics", "phase", _EARLIER_PHASES)
    _check("jobs", "phase", _EARLIER_PHASES)
    _check("datasets", "format", _EARLIER_FORMATS)
    op.drop_column("jobs", "runtime")
    op.drop_column("datasets", "reading")


def _check(table: str, column: str, values: Sequence[str]) -> None:
    """Replace the constraint on what a column may hold."""
    name = op.f(f"ck_{table}_{column}")
    op.drop_constraint(name, table, type_="check")
    listed = ", ".join(f"'{value}'" for value in values)
    op.create_check_constraint(name, table, f"{column} IN ({listed})")
