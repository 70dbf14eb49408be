"""What happens to every request before any route sees it, outermost first.

`RequestContext` gives it an id, logs it, and answers what nobody caught. `Authentication` looks at the key
*before* a byte of the body is read: a stranger can neither fill the spool nor learn whether a body is valid.
`BodyLimit` counts the bytes as they stream. All three are plain ASGI: none buffers a request or a stream.
"""

import logging
import re
import time
from collections.abc import Mapping
from urllib.parse import quote

import structlog
from anyio import BrokenResourceError
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from api import problems
from core.accounts import service as accounts
from core.errors import MixkdError, Unauthenticated

log = logging.getLogger(__name__)

PROTECTED = "/v1/"
JSON_LIMIT = 1 << 20  # bytes; the largest sensible recipe is a few kilobytes

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestContext:
    """An id for every request, in the log, in `X-Request-ID` and in each problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(ULID()).lower()
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        path = quote(scope["path"])  # a line break in it must not start a line of the log
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception as error:
            if status and _nobody_listens(error):
                return
            log.exception("unhandled error in %s %s", scope["method"], path)
            if status:  # too late to say so: the client sees a response cut short
                raise
            await problems.internal(scope)(scope, receive, send_with_id)
        finally:
            log.info(
                "%s %s %d in %.0f ms",
                scope["method"],
                path,
                status,
                1000 * (time.monotonic() - started),
            )


def _nobody_listens(error: Exception) -> bool:
    """Whether all that happened is that who followed a stream has left: FastAPI's sender trips over it."""
    if isinstance(error, ExceptionGroup):
        return all(_nobody_listens(one) for one in error.exceptions)
    return isinstance(error, BrokenResourceError)


class Authentication:
    """No path under `/v1/` without a valid key, whether a route remembered to ask for one or not."""

    def __init__(self, app: ASGIApp, api: FastAPI) -> None:
        self.app = app
        self.api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the principal into the request's state, or answer 401."""
        go_on: ASGIApp = self.app
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            try:
                scope["state"]["principal"] = await self._principal(scope)
            except MixkdError as error:
                go_on = problems.respond(scope, error)
            except problems.DATABASE_DOWN as error:
                go_on = problems.respond(scope, problems.unavailable(error))
        await go_on(scope, receive, send)

    async def _principal(self, scope: Scope) -> accounts.Principal:
        header = Headers(scope=scope).get("authorization", "")
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthenticated("send an API key: 'Authorization: Bearer mixkd_…'")

        def look_up() -> accounts.Principal:
            with self.api.state.sessions() as session:
                return accounts.authenticate(session, key.strip())

        return await run_in_threadpool(look_up)


class BodyTooLarge(HTTPException):
    """An HTTPException, for FastAPI turns any other error in reading a body into a 400."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is over the limit of {limit} bytes", {"Connection": "close"})


class BodyLimit:
    """A limit on the bytes of a request's body, as declared and as they arrive.

    Starlette's own limit answers plain text where a Content-Length gives the size away; hence this one.

    Args:
        app: what comes next.
        limits: path -> bytes; every other path has `JSON_LIMIT`.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int]) -> None:
        self.app = app
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse at once what says that it is too large, and stop what turns out to be."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limits.get(scope["path"], JSON_LIMIT) if scope["method"] == "POST" else JSON_LIMIT
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > limit:
            error = problems.too_large(f"the body is over the limit of {limit} bytes", int(declared))
            response = problems.respond(scope, error)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > limit:
                raise BodyTooLarge(limit)
            return message

        await self.app(scope, counted, send)
