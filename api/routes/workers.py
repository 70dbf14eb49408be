"""`/v1/workers`: what there is to run jobs on."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import Principal, Session, Settings
from api.schemas.common import Page, PageQuery
from api.schemas.workers import WorkerView
from core.workers import service

router = APIRouter(prefix="/workers", tags=["workers"])


@router.get("", summary="List workers, newest first")
def list_workers(
    query: Annotated[PageQuery, Query()], session: Session, principal: Principal, settings: Settings
) -> Page[WorkerView]:
    """Those that reported in within the last 24 hours; `alive` says which still do.

    All owners share them. A job is named only to its owner; of another's only `busy` tells.
    """
    page = service.page(
        session,
        principal.owner_id,
        lives_seconds=settings.lease_seconds,
        limit=query.limit,
        cursor=query.cursor,
    )
    return Page.of(page, WorkerView.of)
