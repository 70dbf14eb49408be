"""`/v1/jobs/{id}/student`: what a job made, file by file or as one archive.

The dashboard serves the same routes to whom its cookie names.
"""

from typing import Any

from fastapi import APIRouter, Request, Response

from api import archive, files
from api.deps import Principal, Session, Storage
from api.schemas.common import Id
from api.schemas.jobs import StudentView
from core.errors import NotFound
from core.jobs import service
from core.models.models import Model
from core.storage import StoredFile
from mixkd.contract.problems import Problem

router = APIRouter(prefix="/jobs", tags=["jobs"])


def _documented(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": "The archive", "content": {media_type: {}}},
        304: {"description": "If-None-Match names what you have"},
    }


@router.get("/{job_id}/student", summary="The student's files")
def student(job_id: Id, session: Session, principal: Principal) -> StudentView:
    """Their paths, sizes and SHA-256s; 404 until the job has succeeded."""
    return StudentView.of(service.student(session, principal.owner_id, job_id))


@router.head("/{job_id}/student/files/{path:path}", include_in_schema=False)
@router.get(
    "/{job_id}/student/files/{path:path}",
    summary="One file of the student",
    response_class=Response,
    responses={
        200: {"description": "The file", "content": {"application/octet-stream": {}}},
        206: {"description": "The range that was asked for", "content": {"application/octet-stream": {}}},
        304: {"description": "If-None-Match names what you have"},
        416: {"description": "The range starts past the end"},
    },
)
def student_file(
    *,
    request: Request,
    job_id: Id,
    path: str,
    session: Session,
    principal: Principal,
    storage: Storage,
) -> Response:
    """`Range` (one), `If-Range`, `ETag` (the SHA-256) and `If-None-Match`, as in RFC 9110."""
    model = service.student(session, principal.owner_id, job_id)
    entry = (model.files or {}).get(path)
    if entry is None:  # only the manifest turns a path into a storage key
        detail = "the student has no such file"
        raise NotFound(detail, Problem("path", detail, path, "choose one that the list of its files names"))
    return files.download(request, storage, f"{model.prefix}/{path}", StoredFile(**entry))


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
