"""Data sets, models and workers, as plain tables."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.dashboard import render
from api.deps import Principal, Session, Settings
from api.schemas.common import PageQuery
from api.schemas.datasets import DatasetView
from api.schemas.models import ModelView
from api.schemas.workers import WorkerView
from core.datasets import service as datasets
from core.models import service as models
from core.workers import service as workers

router = APIRouter()


@router.get("/datasets")
def list_datasets(query: Annotated[PageQuery, Query()], session: Session, principal: Principal) -> Response:
    """Data sets, newest first."""
    page = datasets.page(session, principal.owner_id, limit=query.limit, cursor=query.cursor)
    return render.listing("datasets.html", principal, query, page, DatasetView.of)


@router.get("/models")
def list_models(query: Annotated[PageQuery, Query()], session: Session, principal: Principal) -> Response:
    """Teachers and students, newest first."""
    page = models.page(session, principal.owner_id, limit=query.limit, cursor=query.cursor)
    return render.listing("models.html", principal, query, page, ModelView.of)


@router.get("/workers")
def list_workers(
    query: Annotated[PageQuery, Query()], session: Session, principal: Principal, settings: Settings
) -> Response:
    """The workers that reported in within the last day."""
    page = workers.page(
        session,
        principal.owner_id,
        lives_seconds=settings.lease_seconds,
        limit=query.limit,
        cursor=query.cursor,
    )
    return render.listing("workers.html", principal, query, page, WorkerView.of)
