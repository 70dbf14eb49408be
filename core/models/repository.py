"""Models in SQL. A user's queries name the owner: another's model does not exist."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, func, select, update
from sqlalchemy.orm import Session

from core import paging
from core.errors import NotFound
from core.imports import ImportStatus
from core.models.models import Model
from core.paging import Page


def get(session: Session, owner_id: str, model_id: str) -> Model:
    """One model.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    model = session.scalars(
        select(Model).where(Model.id == model_id, Model.owner_id == owner_id)
    ).one_or_none()
    if model is None:
        raise NotFound(f"there is no model {model_id}")
    return model


def page(session: Session, owner_id: str, limit: int, cursor: str | None) -> Page[Model]:
    """Models, newest first, students among them."""
    query = select(Model).where(Model.owner_id == owner_id)
    rows = session.scalars(paging.newest_first(query, Model.id, limit, cursor)).all()
    return paging.cut(rows, limit, lambda model: model.id)


def ready(session: Session, owner_id: str, most: int) -> Sequence[Model]:
    """An owner's models that are ready: teachers first, then the newest first."""
    query = select(Model).where(Model.owner_id == owner_id, Model.status == ImportStatus.READY)
    return session.scalars(query.order_by(Model.kind.desc(), Model.id.desc()).limit(most)).all()


def importing(session: Session) -> Sequence[str]:
    """The ids of all owners' models whose import is not decided, oldest first."""
    return session.scalars(
        select(Model.id).where(Model.status == ImportStatus.IMPORTING).order_by(Model.id)
    ).all()


def waits_since(session: Session, model_id: str, longer_than: timedelta) -> bool:
    """Whether a model was registered that long ago, by the database's clock."""
    return bool(
        session.scalar(
            select(func.clock_timestamp() - Model.created_at > longer_than).where(Model.id == model_id)
        )
    )


def settle(session: Session, model_id: str, **values: Any) -> bool:
    """Decide an import; False if it was decided before, and then nothing changes."""
    result = session.execute(
        update(Model).where(Model.id == model_id, Model.status == ImportStatus.IMPORTING).values(**values)
    )
    return cast("CursorResult[Any]", result).rowcount == 1
