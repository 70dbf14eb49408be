"""What data sets and models have in common: they are imported, then ready or refused.

An import that dies halfway is run again from its start, by whoever gets to it. So it never writes where
another try has written, and only one transaction at its end makes it count.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.config import Settings
from core.db import SessionFactory
from core.scratch import scratch as locked_scratch
from core.storage import Storage
from mixkd.contract.problems import RefusedError

log = logging.getLogger(__name__)

MAX_CHARACTERS = 10_000  # of a text in a refusal; twenty bad rows with their reasons are some 3000
MAX_ITEMS = 20


class ImportStatus(StrEnum):
    """A thing is of use only when it is `ready`; `refused` carries the reason."""

    IMPORTING = "importing"
    READY = "ready"
    REFUSED = "refused"


def refusal(refused: RefusedError) -> dict[str, Any]:
    """The reason as the column `refusal` keeps it: `detail`, and `errors` with the fields of a `Problem`."""
    return {
        "detail": _storable(str(refused)),
        "errors": [_storable(asdict(problem)) for problem in refused.problems],
    }


def _storable(value: Any) -> Any:
    """Short JSON that Postgres takes: no NUL, and no half of a surrogate pair."""
    if isinstance(value, str):
        clean = value.encode(errors="backslashreplace").decode().replace("\0", "\\0")
        return clean if len(clean) <= MAX_CHARACTERS else clean[:MAX_CHARACTERS] + "…"
    if isinstance(value, dict):
        return {_storable(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value[:MAX_ITEMS]]
    return value if value is None or isinstance(value, bool | int | float) else _storable(str(value))


@contextlib.contextmanager
def scratch(settings: Settings) -> Iterator[Path]:
    """A folder for one import, gone afterwards, see `core.scratch`."""
    with locked_scratch(settings.work_dir, f"import-{uuid4().hex}") as folder:
        yield folder


@contextlib.contextmanager
def undone_unless(
    kept: Callable[[Session], bool], sessions: SessionFactory, storage: Storage, prefix: str
) -> Iterator[None]:
    """Remove what the body stored under a prefix if the body fails.

    A commit whose answer was lost may have happened: `kept` looks whether the database names these files.
    If it cannot be asked, they stay: an orphan costs space, a row without its files costs trust.
    """
    try:
        yield
    except BaseException:
        try:
            with sessions() as session:
                keep = kept(session)
            if not keep:
                storage.delete_prefix(prefix)
        except Exception:
            log.exception("could not tidy up %s", prefix)
        raise


@contextlib.contextmanager
def sole_importer(sessions: SessionFactory, id: str) -> Iterator[bool]:  # noqa: A002 - of whatever is imported
    """Whether this is the only import of a thing now; it saves work and is no guarantee.

    The lock is the connection's, so a process that dies lets go of it. A connection that breaks lets go as
    well, while its import runs on: that import must still be harmless.
    """
    with sessions.kw["bind"].connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            yield bool(connection.scalar(select(func.pg_try_advisory_lock(func.hashtextextended(id, 0)))))
        finally:
            connection.invalidate()  # never back to the pool with the lock
