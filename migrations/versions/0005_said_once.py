"""Events stay; what a trainer says is written down once

Revision ID: 0005
Revises: 0004

Only adds a column, which the previous release leaves at 0. It deletes no events.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_TRIGGER = """
CREATE OR REPLACE TRIGGER job_events_stay BEFORE {refused} ON job_events
    FOR EACH ROW EXECUTE FUNCTION job_events_stay()"""


def upgrade() -> None:
    op.add_column("job_attempts", sa.Column("said", sa.Integer(), server_default="0", nullable=False))
    op.execute(_TRIGGER.format(refused="UPDATE OR DELETE"))


def downgrade() -> None:
    op.execute(_TRIGGER.format(refused="UPDATE"))
    op.drop_column("job_attempts", "said")
