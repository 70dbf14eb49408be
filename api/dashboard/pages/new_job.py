"""The form for a new job, with what the service says of it beside the fields."""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import ValidationError
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api import problems
from api.dashboard import render
from api.dashboard.forms import Form, beside, nested, read_form
from api.deps import Principal, Queue, Session, Settings
from api.routes import jobs
from api.schemas.jobs import JobCreate
from core.datasets import service as datasets
from core.errors import Conflict, MixkdError
from core.models import service as models
from mixkd.contract.problems import Problem

router = APIRouter()

_SENT_BEFORE = Problem(
    "",
    "this form was carried out before you changed it: its job is in the list",
    remedy="submit it again if you want a second job",
)

FIELDS = (
    "name",
    "teacher_id",
    "dataset_id",
    "recipe.student.layers",
    "recipe.preset",
    "recipe.distil.epochs",
    "recipe.distil.batch_size",
    "recipe.mixup.alpha",
    "recipe.baselines[]",
    "recipe.max_length",
    "recipe.seed",
    "recipe",
    "resources.device",
    "priority",
    "deadline_seconds",
)
_MOST_CHOICES = 1000
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)


@router.get("/jobs/new")
def ask(session: Session, principal: Principal) -> HTMLResponse:
    """An empty form."""
    return _page(session, principal, {"key": _new_key()}, {}, 200)


@router.post("/jobs/new")
def submit(
    *,
    request: Request,
    form: Annotated[Form, Depends(read_form)],
    session: Session,
    principal: Principal,
    settings: Settings,
    queue: Queue,
) -> Response:
    """Queue the job just as `POST /v1/jobs` does, or show the form again with every problem.

    The form's hidden key makes a second click the same request.
    """
    key = str(form.get("key", ""))
    try:
        body = JobCreate.model_validate(
            nested({name: form[name] for name in FIELDS if name in form}, as_json="recipe")
        )
        with session.begin_nested():
            job = jobs.create(
                body=body,
                session=session,
                principal=principal,
                settings=settings,
                queue=queue,
                response=Response(),
                key=key if _KEY.fullmatch(key) else None,
            )
    except ValidationError as error:
        found = problems.in_body(request.scope, error.errors())
        return _page(session, principal, form, beside(found, FIELDS), 422)
    except Conflict:  # the only one there is: the form's key was used for what the form said before
        form = {**form, "key": _new_key()}
        return _page(session, principal, form, {"": [_SENT_BEFORE]}, 409)
    except MixkdError as error:
        shown = error.problems or (Problem("", error.detail),)
        return _page(session, principal, form, beside(shown, FIELDS), problems.status(error))
    place = f"/jobs/{job.id}"
    if request.headers.get("hx-request") == "true":
        return Response(status_code=204, headers={"HX-Redirect": place})
    return RedirectResponse(place, 303)


def _new_key() -> str:
    return secrets.token_hex(16)


def _page(
    session: Session,
    principal: Principal,
    form: Form,
    refused: Mapping[str, Sequence[Problem]],
    status: int,
) -> HTMLResponse:
    page = render.html(
        "new_job.html",
        viewer=principal,
        form=form,
        refused=refused,
        teachers=models.ready(session, principal.owner_id, most=_MOST_CHOICES),
        datasets=datasets.ready(session, principal.owner_id, most=_MOST_CHOICES),
        most=_MOST_CHOICES,
    )
    return HTMLResponse(page, status)
