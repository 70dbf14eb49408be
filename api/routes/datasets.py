"""`/v1/datasets`: upload and read data sets."""

from typing import Annotated, get_args

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api import uploads
from api.deps import Principal, Queue, Session, Sessions, Settings, Storage
from api.idempotency import IdempotencyKey, mark_replay
from api.schemas.common import Id, Page, PageQuery
from api.schemas.datasets import DatasetForm, DatasetView
from core.datasets import service
from core.errors import InvalidInput
from mixkd.contract.data_spec import DataFormat, Split, Task

router = APIRouter(prefix="/datasets", tags=["data sets"])

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_FILE = {"type": "string", "format": "binary"}


def _json(description: str, example: str) -> dict[str, object]:
    """A part that holds JSON, for OpenAPI."""
    kind = {"type": "string", "contentMediaType": "application/json"}
    return {**kind, "description": description, "examples": [example]}


_BODY = uploads.documented(
    {
        "name": {"type": "string", "maxLength": 200},
        "format": {"type": "string", "enum": list(get_args(DataFormat)), "default": "jsonl"},
        "header": {"type": "boolean", "default": True, "description": "CSV, TSV: line 1 names the columns"},
        "bad_rows": {"type": "string", "enum": ["refuse", "skip"], "default": "refuse"},
        "columns": _json("which column holds what", '{"text": "question", "label": "class"}'),
        "task": {"type": "string", "enum": list(get_args(Task)), "default": "single_label"},
        "labels": _json("in the order of a new head's outputs", '["negative", "positive"]'),
        "label_names": _json("names of the labels that the files hold", '{"0": "negative"}'),
        "label_separator": {"type": "string", "default": "|", "description": "several labels in a CSV cell"},
        "score_range": _json("lowest and highest score of a regression", "[0, 5]"),
        "metrics": _json("the first one chooses the best weights", '["f1", "accuracy"]'),
        "train": _FILE,
        "validation": _FILE,
        "test": _FILE,
    },
    required=["name", "train"],
)


@router.post(
    "",
    status_code=201,
    summary="Upload a data set",
    openapi_extra=_BODY,
    responses={202: {"model": DatasetView, "description": "It is large: the control worker checks it"}},
)
async def create(
    *,
    request: Request,
    response: Response,
    sessions: Sessions,
    storage: Storage,
    settings: Settings,
    principal: Principal,
    queue: Queue,
    key: IdempotencyKey = None,
) -> DatasetView:
    """A small one is checked at once: `201`, or `422` with every problem, and then nothing is kept.

    A large one is stored: `202`. Its `status` says later how it went.
    """
    async with uploads.received(request, fields=DatasetForm.model_fields, files=_SPLITS) as parts:
        form = parts.form(DatasetForm)
        if "train" not in parts.files:
            raise InvalidInput.of("train", "it is required", remedy="send the training file")
        upload = service.Upload(
            name=form.name,
            reading=form.reading(),
            files={split: parts.files[split][0] for split in _SPLITS if split in parts.files},
        )
        small = sum(p.stat().st_size for p in upload.files.values()) <= settings.inline_import_bytes
        made = await run_in_threadpool(
            service.create,
            sessions,
            storage,
            settings,
            owner_id=principal.owner_id,
            upload=upload,
            idempotency_key=key,
        )
    if made.repeated:
        mark_replay(response)
    if not small:
        response.status_code = 202
        if not made.repeated:
            await run_in_threadpool(queue.import_dataset, made.dataset.id)
    return DatasetView.of(made.dataset)


@router.get("", summary="List data sets, newest first")
def list_datasets(
    query: Annotated[PageQuery, Query()], session: Session, principal: Principal
) -> Page[DatasetView]:
    """Those of the key's owner."""
    page = service.page(session, principal.owner_id, limit=query.limit, cursor=query.cursor)
    return Page.of(page, DatasetView.of)


@router.get("/{dataset_id}", summary="Read a data set")
def read(dataset_id: Id, session: Session, principal: Principal) -> DatasetView:
    """Its state, what it holds, and why it was refused if it was."""
    return DatasetView.of(service.get(session, principal.owner_id, dataset_id))
