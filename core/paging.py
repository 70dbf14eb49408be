"""Pages cut by id (keyset): rows that arrive meanwhile neither repeat nor hide others."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

from core.errors import InvalidInput

T = TypeVar("T")
Query = TypeVar("Query", bound=Select[*tuple[Any, ...]])


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows in the order of their list, and where the next page starts (None: this was the last)."""

    items: Sequence[T]
    next_cursor: str | None


def newest_first(query: Query, id: InstrumentedAttribute[str], limit: int, cursor: str | None) -> Query:  # noqa: A002 - it is the id column
    """The query for one page; it asks for one row more, whose presence says that there is another page.

    Raises:
        InvalidInput: the cursor is not one that a page ended with.
    """
    if cursor is not None:
        query = query.where(id < decode(cursor))
    return query.order_by(id.desc()).limit(limit + 1)


def cut(rows: Sequence[T], limit: int, id_of: Callable[[T], str]) -> Page[T]:
    """The page among the rows that `newest_first` fetched."""
    items = rows[:limit]
    return Page(items, encode(id_of(items[-1])) if len(rows) > limit else None)


def encode(last: str) -> str:
    """A cursor: opaque to the user, who is to send it back as it is."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def decode(cursor: str) -> str:
    """What a cursor holds.

    Raises:
        InvalidInput: it is not one of ours.
    """
    try:
        last = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
        if last.isprintable():
            return last
    except ValueError:  # binascii.Error and UnicodeDecodeError are two of them
        pass
    raise bad_cursor(cursor)


def bad_cursor(cursor: str) -> InvalidInput:
    """The refusal of a cursor that no page ended with."""
    return InvalidInput.of(
        "cursor", "not a cursor", value=cursor, remedy="use the next_cursor of a page, or leave it out"
    )
