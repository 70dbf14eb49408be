"""The database: one declarative base, one engine per process, one session per unit of work.

SQLAlchemy is used synchronously everywhere (docs/adr/0003): the API runs its short transactions in
its thread pool, and both sides share one set of repositories.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar

import psycopg
from sqlalchemy import DateTime, Engine, ExceptionContext, MetaData, create_engine, event, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from core.config import Settings

SessionFactory = sessionmaker[Session]

NOW = text("clock_timestamp()")  # the database's clock, also inside a long transaction


_NOTICE_A_DEAD_NETWORK = {  # within 20 s; left to the kernel, it takes a quarter of an hour or two hours
    "tcp_user_timeout": 20_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}


CONNECTIONS = 15  # that a process opens at most
_KEPT = 5  # of them, while nobody needs them


def one_of(column: str, words: Iterable[str]) -> str:
    """The condition of a CHECK: the column holds one of these words."""
    return f"{column} IN ({', '.join(repr(str(word)) for word in words)})"


class Base(DeclarativeBase):
    """Names every constraint, so that migrations and error messages can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),  # a missing value is SQL NULL, never JSON null
        list[Any]: JSONB(none_as_null=True),
    }


def connect(settings: Settings, *, longest_pause: float | None = None) -> Engine:
    """An engine that checks a pooled connection before it is used, and gives up one that leads nowhere.

    Args:
        longest_pause: seconds after which the server ends a transaction that nobody goes on with. Whoever is
            frozen, or lost with its network, in the middle of one would keep its locks for hours.
    """
    options = "-c timezone=UTC"
    if longest_pause is not None:
        options += f" -c idle_in_transaction_session_timeout={longest_pause * 1000:.0f}"
    engine = create_engine(
        settings.database_url.get_secret_value(),
        pool_pre_ping=True,
        pool_size=_KEPT,
        max_overflow=CONNECTIONS - _KEPT,
        connect_args={"connect_timeout": 10, "options": options, **_NOTICE_A_DEAD_NETWORK},
    )
    event.listen(engine, "handle_error", _as_an_outage, retval=True)
    return engine


def _as_an_outage(context: ExceptionContext) -> BaseException | None:
    """A session that the server ended is one that broke, also where psycopg calls it an internal error."""
    error = context.original_exception
    if context.is_disconnect and isinstance(error, psycopg.InternalError):
        return OperationalError(context.statement, None, error, connection_invalidated=True)
    return None


def trouble(error: DBAPIError) -> str:
    """What is wrong with the database, for the operator; psycopg repeats no password."""
    what = "does not answer" if isinstance(error, OperationalError) else "refuses"
    return f"the database {what}: {str(error.orig).strip()}"


def session_factory(engine: Engine) -> SessionFactory:
    """Sessions whose objects stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)
