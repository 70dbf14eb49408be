"""Every error as `application/problem+json` (RFC 9457), naming the field, the value and the remedy.

No document carries a traceback, a path of the server or a secret: what is not one of `core.errors` becomes
a bare 500, and the log has the rest under the same request id.
"""

import difflib
import logging
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, get_args

import sqlalchemy.exc
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Scope

from api.schemas.common import ProblemDocument, ProblemEntry, problem_type
from core.censor import censored
from core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    MixkdError,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from mixkd.contract.problems import Problem, RefusedError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[type[MixkdError], int] = {
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    InvalidInput: 422,
    MixkdError: 500,
    Unavailable: 503,
}
_SEND_JSON = "send one JSON object in UTF-8, with Content-Type: application/json"

DATABASE_DOWN = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.TimeoutError)

_HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": 'Bearer realm="mixkd"'},
    503: {"Retry-After": "5"},
}
_BY_STATUS = {status: error for error, status in STATUS.items()}


def install(app: FastAPI) -> None:
    """Answer every error that the app's routes raise with a problem document."""

    @app.exception_handler(MixkdError)
    async def _(request: Request, error: MixkdError) -> Response:
        return respond(request.scope, error)

    @app.exception_handler(RefusedError)
    async def _(request: Request, error: RefusedError) -> Response:
        return respond(request.scope, InvalidInput(str(error), *error.problems))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        problems = [_problem(request.scope, found) for found in error.errors()]
        detail = "; ".join(f"{p.field}: {p.problem}" for p in problems)
        return respond(request.scope, InvalidInput(detail, *problems))

    @app.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        return _from_status(request.scope, error)

    async def database_down(request: Request, error: Exception) -> Response:
        return respond(request.scope, unavailable(error))

    for kind in DATABASE_DOWN:
        app.add_exception_handler(kind, database_down)


def unavailable(error: Exception) -> Unavailable:
    """The database did not answer: what the user is told; the log has the reason."""
    log.warning("the database failed a request: %s", error)
    return Unavailable("the database does not answer at present; try again")


def respond(scope: Scope, error: MixkdError) -> Response:
    """The problem document for an error of ours."""
    problems = error.problems or _where(scope, error)
    return _document(scope, status(error), error.code, error.title, error.detail, problems=problems)


def status(error: MixkdError) -> int:
    """The HTTP status of an error of ours."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def in_body(scope: Scope, found: Iterable[Mapping[str, Any]]) -> list[Problem]:
    """What pydantic found in a body, in our words."""
    return [_problem(scope, {**one, "loc": ("body", *one["loc"])}) for one in found]


def _where(scope: Scope, error: MixkdError) -> list[Problem]:
    """The header or the id in the path that an error is about: below the API nobody knows of these."""
    if isinstance(error, Unauthenticated):
        return [Problem("Authorization", error.detail, remedy="send 'Bearer ' and a valid key in it")]
    if isinstance(error, NotFound) and (given := scope.get("path_params")):
        name, value = next(iter(given.items()))
        return [Problem(name, error.detail, value, "give the id of one of yours, as the service named it")]
    return []


def internal(scope: Scope) -> Response:
    """The answer to what should never happen; it says nothing but the request's id."""
    return respond(scope, MixkdError("this is a fault of the service; its log has more under the request id"))


def _from_status(scope: Scope, error: HTTPException) -> Response:
    """Starlette's own errors: no such path, no such method, a body that cannot be read, a body too large."""
    if error.status_code == 204:  # no error; raised where a stream was promised and nothing is left to say
        return Response(status_code=204)
    known = _BY_STATUS.get(error.status_code)
    phrase = HTTPStatus(error.status_code).phrase
    code = known.code if known else phrase.lower().replace(" ", "_")
    title = known.title if known else phrase
    return _document(
        scope,
        error.status_code,
        code,
        title,
        str(error.detail),
        problems=_about_request(scope, error),
        headers=error.headers,
    )


def _about_request(scope: Scope, error: HTTPException) -> list[Problem]:
    """Which part of the request one of Starlette's errors is about."""
    match error.status_code:
        case 400:
            return [Problem("body", "it cannot be read", remedy=_SEND_JSON)]
        case 404:
            return [Problem("path", "there is no such path", scope["path"], "see /docs for those there are")]
        case 405:
            allowed = (error.headers or {}).get("Allow", "another one")
            return [Problem("method", "this path does not take it", scope["method"], f"use {allowed}")]
        case 413:
            return list(too_large(str(error.detail)).problems)
        case 416:
            return [Problem("Range", str(error.detail), remedy="start within the file, or ask for all of it")]
    return []


def too_large(detail: str, value: int | None = None) -> TooLarge:
    """The refusal of a body; `value`: its size in bytes, where that is known."""
    remedy = "send less, or ask the operator for a higher MIXKD_MAX_UPLOAD_BYTES if it is an upload"
    return TooLarge(detail, Problem("body", detail, value, remedy))


def _document(
    scope: Scope,
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    problems: Iterable[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    entries = [
        ProblemEntry(
            field=_printable(p.field),
            problem=_printable(p.problem),
            value=shown(p.field, p.value),
            remedy=p.remedy,
        )
        for p in problems
    ]
    document = ProblemDocument(
        type=problem_type(code),
        title=title,
        status=status,
        detail=_printable(detail),
        code=code,
        request_id=scope.get("state", {}).get("request_id", ""),
        errors=entries,
    )
    return JSONResponse(
        document.model_dump(mode="json"), status, {**_HEADERS.get(status, {}), **(headers or {})}, MEDIA_TYPE
    )


# --- what pydantic found, in our words -----------------------------------------------------------------


_NOT_AN_OBJECT = ("missing", "model_type", "model_attributes_type", "dict_type")


def _problem(scope: Scope, found: Mapping[str, Any]) -> Problem:
    place, *loc = found["loc"]
    kind, context = found["type"], found.get("ctx", {})
    if kind == "json_invalid":
        return Problem(
            "body",
            f"not valid JSON at character {loc[0]}: {context.get('error')}",
            remedy=_SEND_JSON,
        )
    if not loc:
        problem = "a JSON object is needed here" if kind in _NOT_AN_OBJECT else str(found["msg"])
        return Problem(str(place), problem, remedy=_SEND_JSON)
    field = ".".join(str(part) for part in loc)
    if kind == "missing":
        return Problem(field, "it is required", remedy="add it")
    if kind == "extra_forbidden":
        return Problem(field, "no such field", found["input"], _did_you_mean(scope, place, loc))
    message = str(found["msg"]).removeprefix("Value error, ")
    _, should, needed = message.partition(" should ")
    problem = f"it should {needed}" if should else message
    return Problem(field, problem, found["input"], _remedy(context, needed))


_CHOOSE = {
    "expected": "choose {}",
    "ge": "choose {} or more",
    "gt": "choose more than {}",
    "le": "choose {} or less",
    "lt": "choose less than {}",
    "min_length": "give at least {} characters",
    "max_length": "give at most {} characters",
    "remedy": "{}",  # our own validators bring theirs
}


def _remedy(context: Mapping[str, Any], needed: str) -> str:
    for key, words in _CHOOSE.items():
        if key in context:
            return words.format(context[key])
    return f"give {needed.removeprefix('be ')}" if needed.startswith("be ") else "see /docs"


def _did_you_mean(scope: Scope, place: str, loc: list[str | int]) -> str:
    known = _known_fields(scope, place, loc[:-1])
    close = difflib.get_close_matches(str(loc[-1]), known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"leave it out; there are {', '.join(known)}" if known else "leave it out"


def _known_fields(scope: Scope, place: str, parents: list[str | int]) -> list[str]:
    """The names that the request's model has where an unknown one was found."""
    route = scope.get("route")
    fields = [getattr(route, "body_field", None)] if place == "body" else query_fields(route)
    for field in fields:
        model = _model(field.field_info.annotation) if field is not None else None
        for parent in parents:
            found = model.model_fields.get(str(parent)) if model else None
            model = _model(found.annotation) if found else None
        if model:
            return [f.alias or name for name, f in model.model_fields.items()]
    return []


def query_fields(route: Any) -> list[Any]:
    """What a route takes in its query, its dependencies included: FastAPI's `ModelField`s."""
    found, waiting = [], [getattr(route, "dependant", None)]
    while waiting:
        if (dependant := waiting.pop()) is not None:
            found += dependant.query_params
            waiting += dependant.dependencies
    return found


def _model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `DistilSpec | None`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


# --- what may be shown ---------------------------------------------------------------------------------

_SECRET_NAME = re.compile(
    r"api[_-]?key|token(?!iz)|secret|password|passwd|credential|authorization", re.IGNORECASE
)
_LONGEST = 200  # characters
_MOST_ITEMS = 20


def shown(field: str, value: object) -> object:
    """A value as it may be repeated to its sender: short, printable, and never a secret."""
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_NAME.search(field):
        return None
    if isinstance(value, int | float):
        return value if abs(value) < 1e15 else _shortened(str(value))  # also inf; nan compares false
    if isinstance(value, Mapping):
        return f"an object with {len(value)} members"
    if isinstance(value, list | tuple):
        return [shown(field, item) if _is_scalar(item) else "…" for item in value[:_MOST_ITEMS]]
    return _shortened(str(value))


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _shortened(text: str) -> str:
    clean = _printable(censored(text))
    return clean if len(clean) <= _LONGEST else clean[:_LONGEST] + "…"


def _printable(text: str) -> str:
    """Text that UTF-8 can carry: JSON may smuggle in half a surrogate pair."""
    return text.encode(errors="backslashreplace").decode()
