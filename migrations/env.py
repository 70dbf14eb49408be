"""How Alembic reaches the database and what it compares it with.

`core.schema` passes a connection; the `alembic` command uses the one that the environment names.
"""

import sys
import time

import psycopg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from core.config import Settings
from core.db import connect
from core.errors import Unavailable
from core.schema import metadata

# Two processes that migrate at once would both start from the old schema; the second waits here.
_ADVISORY_LOCK = 0x6D69786B64  # "mixkd"


# Whoever wants a table that a migration waits for waits behind it, heartbeats too: a lease must outlast that.
_LOCK_SECONDS = 3
_PAUSE_SECONDS = 2
_TRIES = 60

_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


def _run(connection: Connection) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    connection.commit()
    try:
        for _ in range(context.config.attributes.get("tries", _TRIES)):
            if _migrated(connection):
                return
            print("migrate: a table is in use; trying again", file=sys.stderr)  # noqa: T201 - for the operator
            time.sleep(_PAUSE_SECONDS)
        raise Unavailable(
            "a table was in use all the time, so that nothing was migrated: end what reads for long "
            "(`SELECT pid, state, query FROM pg_stat_activity WHERE xact_start < now() - interval '1 min'`)"
        )
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
        connection.commit()


def _migrated(connection: Connection) -> bool:
    """Run what is missing, all or nothing; False: somebody holds a table."""
    context.configure(connection=connection, target_metadata=metadata(), compare_server_default=True)
    try:
        with context.begin_transaction():
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            context.run_migrations()
    except OperationalError as error:
        if not isinstance(error.orig, _BUSY):
            raise
        return False
    return True


if context.is_offline_mode():
    raise SystemExit("migrations need a database to run on; `--sql` is not supported")

given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with connect(Settings()).connect() as own:
        _run(own)
