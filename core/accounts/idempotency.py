"""`Idempotency-Key`: the repetition of a request makes nothing new.

A row that names the key, the request and what it made is written in the *same* transaction as what it
made. Requests that carry the same key at the same moment wait on the table's primary key: the second goes
on only when the first has committed (and then answers with what that made) or has failed (and then does
the work itself).
"""

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.accounts.models import IdempotencyKey
from core.errors import Conflict
from mixkd.contract.problems import Problem


@dataclass(frozen=True)
class Repeatable:
    """A request that may be sent again: whose, under which key, and what it asks for."""

    owner_id: str
    key: str
    request_sha256: bytes


def repeatable(owner_id: str, key: str | None, what: str, request: object) -> Repeatable | None:
    """The request under its key; None if it carries none, and then nothing is remembered.

    Args:
        owner_id: whose request it is.
        key: the header's value.
        what: what is being made, such as `jobs`: one key cannot serve for two kinds of thing.
        request: what was asked for, as JSON values; for files, their digests.
    """
    if key is None:
        return None
    canonical = json.dumps([what, request], sort_keys=True, separators=(",", ":"))
    return Repeatable(owner_id, key, hashlib.sha256(canonical.encode()).digest())


def find(session: Session, request: Repeatable | None) -> str | None:
    """The id of what an earlier request made under this key; None if there was none.

    This does not reserve the key: it spares work whose result `claim` would throw away.

    Raises:
        Conflict: the earlier request asked for something else.
    """
    if request is None:
        return None
    row = session.execute(
        select(IdempotencyKey.resource_id, IdempotencyKey.request_sha256).where(
            IdempotencyKey.owner_id == request.owner_id, IdempotencyKey.key == request.key
        )
    ).one_or_none()
    if row is None:
        return None
    if row.request_sha256 != request.request_sha256:
        raise Conflict(
            "this Idempotency-Key was used for another request",
            Problem(
                "Idempotency-Key",
                "it was used for another request",
                request.key,
                "use a new key for a new request",
            ),
        )
    resource_id: str = row.resource_id
    return resource_id


def claim(session: Session, request: Repeatable | None, resource_id: str) -> str | None:
    """Take the key for the thing about to be made in this transaction.

    Returns:
        None if this request is the first (or carries no key): go on, and make `resource_id`.
        Otherwise the id of what the earlier request made: make nothing, answer with that.

    Waits for another transaction that holds the same key to end.

    Raises:
        Conflict: the earlier request asked for something else.
    """
    if request is None:
        return None
    taken = session.execute(
        insert(IdempotencyKey)
        .values(
            owner_id=request.owner_id,
            key=request.key,
            request_sha256=request.request_sha256,
            resource_id=resource_id,
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.resource_id)
    ).one_or_none()
    return None if taken is not None else find(session, request)
