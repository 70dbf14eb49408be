"""Data sets, models and workers, as plain tables."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import HTMLResponse

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
def list_datasets(
    query: Annotated[PageQuery, Query()], session: Session, principal: Principal
) -> HTMLResponse:
    """Data sets, newest first."""
    page = datasets.page(session, principal.owner_id, limit=query.limit, cursor=query.cursor)
    return HTMLResponse(
        render.html(
            "datasets.html",
            viewer=principal,
            datasets=[DatasetView.of(one) for one in page.items],
            next_cursor=page.next_cursor,
            query=query,
        )
    )


@router.get("/models")
def list_models(query: Annotated[PageQuery, Query()], session: Session, principal: Principal) -> HTMLResponse:
    """Teachers and students, newest first."""
    page = models.page(session, principal.owner_id, limit=query.limit, cursor=query.cursor)
    return HTMLResponse(
        render.html(
            "models.html",
            viewer=principal,
            models=[ModelView.of(one) for one in page.items],
            next_cursor=page.next_cursor,
            query=query,
        )
    )


@router.get("/workers")
def list_workers(
    query: Annotated[PageQuery, Query()], session: Session, principal: Principal, settings: Settings
) -> HTMLResponse:
    """The workers that reported in within the last day."""
    page = workers.page(
        session,
        principal.owner_id,
        lives_seconds=settings.lease_seconds,
        limit=query.limit,
        cursor=query.cursor,
    )
    return HTMLResponse(
        render.html(
            "workers.html",
            viewer=principal,
            workers=[WorkerView.of(one) for one in page.items],
            next_cursor=page.next_cursor,
            query=query,
        )
    )
