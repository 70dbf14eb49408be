"""A student as one file: `/v1/jobs/{id}/student.tar` and `.zip`. Single files: `api.routes.jobs`."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api import archive
from api.deps import Principal, Session, Storage
from api.schemas.common import Id
from core.jobs import service
from core.models.models import Model
from core.storage import StoredFile

router = APIRouter(prefix="/jobs", tags=["jobs"])


def _documented(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "The archive", "content": {media_type: {}}},
        304: {"description": "If-None-Match names what you have"},
    }


@router.head("/{job_id}/student.tar", include_in_schema=False)
@router.get(
    "/{job_id}/student.tar",
    summary="The student as a tar",
    response_class=Response,
    responses=_documented("application/x-tar"),
)
def student_tar(
    *, request: Request, job_id: Id, session: Session, principal: Principal, storage: Storage
) -> Response:
    """All files in one folder, not compressed; `ETag` and `If-None-Match`, no ranges.

    Cut short if a stored file turns out to be damaged: compare with `Content-Length`, as HTTP clients do.
    """
    model = service.student(session, principal.owner_id, job_id)
    return _answer(request, storage, job_id, model, "tar")


@router.head("/{job_id}/student.zip", include_in_schema=False)
@router.get(
    "/{job_id}/student.zip",
    summary="The student as a zip",
    response_class=Response,
    responses=_documented("application/zip"),
)
def student_zip(
    *, request: Request, job_id: Id, session: Session, principal: Principal, storage: Storage
) -> Response:
    """As the tar. To unpack it while it arrives, take the tar: a zip's directory comes last."""
    model = service.student(session, principal.owner_id, job_id)
    return _answer(request, storage, job_id, model, "zip")


def _answer(
    request: Request,
    storage: Storage,
    job_id: str,
    model: Model,
    kind: archive.Kind,
) -> Response:
    manifest = {path: StoredFile(**entry) for path, entry in (model.files or {}).items()}
    return archive.download(request, storage, model.prefix, manifest, folder=f"{job_id}-student", kind=kind)
