"""Coming and going."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.dashboard import render, session
from api.dashboard.forms import Form, read_form
from api.deps import Session, Settings
from core.accounts import service as accounts
from core.errors import Unauthenticated

router = APIRouter()


@router.get("/")
def home() -> Response:
    """There is no page before the list of jobs."""
    return RedirectResponse("/jobs", 303)


@router.get("/sign-in")
def ask(next: str = "/jobs") -> HTMLResponse:  # noqa: A002 - the parameter's name in many a web application
    """The form that asks for a key."""
    return HTMLResponse(render.html("sign_in.html", viewer=None, next=_here(next), problem=None))


@router.post("/sign-in")
def sign_in(
    request: Request, form: Annotated[Form, Depends(read_form)], session_: Session, settings: Settings
) -> Response:
    """Give a valid key a session, and show the page that was wanted."""
    next_page = _here(form.get("next", ""))
    try:
        principal = accounts.authenticate(session_, form.get("key", "").strip())
    except Unauthenticated as error:
        page = render.html("sign_in.html", viewer=None, next=next_page, problem=error.detail)
        return HTMLResponse(page, 401)
    response = RedirectResponse(next_page, 303)
    session.sign_in(request, response, settings, principal)
    return response


@router.post("/sign-out")
def sign_out() -> Response:
    """Forget who looks."""
    response = RedirectResponse("/sign-in", 303)
    session.sign_out(response)
    return response


def _here(page: str) -> str:
    """A page of ours. `//host` and `/\\host` are other sites' to a browser."""
    ours = page.startswith("/") and not page.startswith(("//", "/\\")) and page.isprintable()
    return page if ours else "/jobs"
