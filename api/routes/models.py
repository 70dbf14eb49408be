"""`/v1/models`: register, upload and read models."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api import uploads
from api.deps import Principal, Queue, Session, Sessions, Settings, Storage, after_commit
from api.idempotency import IdempotencyKey, mark_replay
from api.schemas.common import Id, Page, PageQuery
from api.schemas.models import ModelCreate, ModelForm, ModelView
from core.errors import InvalidInput
from core.models import service

router = APIRouter(prefix="/models", tags=["models"])

_BODY = uploads.documented(
    {
        "name": {"type": "string", "maxLength": 200},
        "files": {
            "type": "array",
            "items": {"type": "string", "format": "binary"},
            "description": "config.json, the safetensors and the tokenizer's files, one part each",
        },
    },
    required=["name", "files"],
)


@router.post("", status_code=202, summary="Register a teacher by reference")
def create(
    *,
    body: ModelCreate,
    response: Response,
    session: Session,
    settings: Settings,
    principal: Principal,
    queue: Queue,
    key: IdempotencyKey = None,
) -> ModelView:
    """A folder is inspected at once and copied later; a model on a hub is fetched and inspected later.

    The model's `status` says how it went. Of a hub's model the very commit is recorded in `source`.
    """
    made = service.register(
        session,
        settings,
        owner_id=principal.owner_id,
        name=body.name,
        source=body.source,
        idempotency_key=key,
    )
    if made.repeated:
        mark_replay(response)
    else:
        after_commit(session, lambda: queue.import_model(made.model.id))
    return ModelView.of(made.model)


@router.post(
    "/upload", status_code=201, summary="Register a teacher by uploading its files", openapi_extra=_BODY
)
async def upload(
    *,
    request: Request,
    response: Response,
    sessions: Sessions,
    storage: Storage,
    principal: Principal,
    key: IdempotencyKey = None,
) -> ModelView:
    """Safetensors only. Nothing pickled is ever opened, and files that loading does not need are dropped."""
    async with uploads.received(
        request, fields=ModelForm.model_fields, files=["files"], several=True
    ) as parts:
        form = parts.form(ModelForm)
        if "files" not in parts.files:
            raise InvalidInput.of("files", "it is required", remedy="send the model's files")
        made = await run_in_threadpool(
            service.upload,
            sessions,
            storage,
            owner_id=principal.owner_id,
            name=form.name,
            folder=parts.folder / "files",
            idempotency_key=key,
        )
    if made.repeated:
        mark_replay(response)
    return ModelView.of(made.model)


@router.get("", summary="List models, newest first")
def list_models(
    query: Annotated[PageQuery, Query()], session: Session, principal: Principal
) -> Page[ModelView]:
    """Those of the key's owner, students among them."""
    page = service.page(session, principal.owner_id, limit=query.limit, cursor=query.cursor)
    return Page.of(page, ModelView.of)


@router.get("/{model_id}", summary="Read a model")
def read(model_id: Id, session: Session, principal: Principal) -> ModelView:
    """Its state, what it is, and why it was refused if it was."""
    return ModelView.of(service.get(session, principal.owner_id, model_id))
