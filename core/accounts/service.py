"""Making, checking and revoking API keys."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from core.accounts.models import ApiKey, Owner
from core.errors import NotFound, Unauthenticated
from core.ids import new_id

PREFIX = "mixkd_"
"""What every key starts with, so that a leaked one can be recognised and found."""

SECRET_BYTES = 32  # 256 bits: no rate limit and no salt is needed against guessing


@dataclass(frozen=True)
class Principal:
    """Who is asking: an owner, by means of one of its keys."""

    owner_id: str
    key_id: str


def create_key(session: Session, owner_name: str, key_name: str) -> tuple[ApiKey, str]:
    """A new key for the owner of that name, who is made if new; the row and the key itself.

    The key is in nobody's hands but the caller's: only its SHA-256 is stored.
    """
    session.execute(
        insert(Owner)
        .values(id=new_id("own"), name=owner_name)
        .on_conflict_do_nothing(index_elements=["name"])
    )
    owner_id = session.scalars(select(Owner.id).where(Owner.name == owner_name)).one()
    return add_key(session, owner_id, new_id("key"), key_name)


def limit(session: Session, owner_name: str, max_running: int | None) -> None:
    """Set how many jobs an owner may run at a time; None: as many as the settings say.

    Raises:
        NotFound: there is no owner of that name.
    """
    changed = session.execute(
        update(Owner).where(Owner.name == owner_name).values(max_running=max_running).returning(Owner.id)
    ).scalar()
    if changed is None:
        raise NotFound(f"there is no owner {owner_name!r}")


def add_key(session: Session, owner_id: str, key_id: str, key_name: str) -> tuple[ApiKey, str]:
    """A new key, under an id that the caller chose, for an owner that exists."""
    plaintext = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(id=key_id, owner_id=owner_id, name=key_name, sha256=_sha256(plaintext))
    session.add(key)
    session.flush()
    return key, plaintext


def authenticate(session: Session, plaintext: str) -> Principal:
    """Whose key this is.

    Raises:
        Unauthenticated: no such key, or it was revoked; the two are not told apart.
    """
    row = session.execute(
        select(ApiKey.owner_id, ApiKey.id).where(
            ApiKey.sha256 == _sha256(plaintext), ApiKey.revoked_at.is_(None)
        )
    ).one_or_none()
    if row is None:
        raise Unauthenticated("this API key is not valid: it is unknown, or it was revoked")
    return Principal(owner_id=row.owner_id, key_id=row.id)


def of_key(session: Session, key_id: str) -> Principal:
    """Who has a key that was checked before.

    Raises:
        Unauthenticated: it was revoked meanwhile.
    """
    owner_id = session.scalars(
        select(ApiKey.owner_id).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
    ).one_or_none()
    if owner_id is None:
        raise Unauthenticated("the API key that you signed in with was revoked")
    return Principal(owner_id=owner_id, key_id=key_id)


def list_keys(session: Session, owner_id: str) -> Sequence[ApiKey]:
    """An owner's keys, newest first, the revoked ones among them."""
    return session.scalars(select(ApiKey).where(ApiKey.owner_id == owner_id).order_by(ApiKey.id.desc())).all()


def get_key(session: Session, owner_id: str, key_id: str) -> ApiKey:
    """One key of this owner.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    key = session.scalars(
        select(ApiKey).where(ApiKey.owner_id == owner_id, ApiKey.id == key_id)
    ).one_or_none()
    if key is None:
        raise NotFound(f"there is no key {key_id}")
    return key


def revoke_key(session: Session, owner_id: str, key_id: str) -> None:
    """End a key at once. Revoking it again changes nothing.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    get_key(session, owner_id, key_id)
    session.execute(
        update(ApiKey)
        .where(ApiKey.owner_id == owner_id, ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=func.clock_timestamp())
    )


def _sha256(plaintext: str) -> bytes:
    return hashlib.sha256(plaintext.encode()).digest()
