"""Data sets in SQL. A user's queries name the owner: another's data set does not exist."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from core import paging
from core.datasets.models import Dataset
from core.errors import NotFound
from core.imports import ImportStatus
from core.paging import Page


def get(session: Session, owner_id: str, dataset_id: str) -> Dataset:
    """One data set.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    dataset = session.scalars(
        select(Dataset).where(Dataset.id == dataset_id, Dataset.owner_id == owner_id)
    ).one_or_none()
    if dataset is None:
        raise NotFound(f"there is no data set {dataset_id}")
    return dataset


def page(session: Session, owner_id: str, limit: int, cursor: str | None) -> Page[Dataset]:
    """Data sets, newest first."""
    query = select(Dataset).where(Dataset.owner_id == owner_id)
    rows = session.scalars(paging.newest_first(query, Dataset.id, limit, cursor)).all()
    return paging.cut(rows, limit, lambda dataset: dataset.id)


def ready(session: Session, owner_id: str, most: int) -> Sequence[Dataset]:
    """An owner's data sets that are ready, newest first."""
    query = select(Dataset).where(Dataset.owner_id == owner_id, Dataset.status == ImportStatus.READY)
    return session.scalars(query.order_by(Dataset.id.desc()).limit(most)).all()


def importing(session: Session) -> Sequence[str]:
    """The ids of all owners' data sets whose import is not decided, oldest first."""
    return session.scalars(
        select(Dataset.id).where(Dataset.status == ImportStatus.IMPORTING).order_by(Dataset.id)
    ).all()


def settle(session: Session, dataset_id: str, **values: Any) -> bool:
    """Decide an import; False if it was decided before, and then nothing changes."""
    result = session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id, Dataset.status == ImportStatus.IMPORTING)
        .values(**values)
    )
    return cast("CursorResult[Any]", result).rowcount == 1
