"""How Alembic reaches the database and what it compares it with.

`core.schema` passes a connection; the `alembic` command uses the one that the environment names.
"""

from alembic import context
from sqlalchemy import Connection, text

from core.config import Settings
from core.db import connect
from core.schema import metadata

# Two processes that migrate at once would both start from the old schema; the second waits here.
_ADVISORY_LOCK = 0x6D69786B64  # "mixkd"


def _run(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    connection.commit()
    try:
        context.configure(connection=connection, target_metadata=metadata(), compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()


if context.is_offline_mode():
    raise SystemExit("migrations need a database to run on; `--sql` is not supported")

given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with connect(Settings()).connect() as own:
        _run(own)
