"""What stands between a browser and every page, so that no route can forget it.

Pages get headers that let nothing in but our own files. A change must come from one of our own pages, as its
Origin says. And an error, wherever it arose, becomes a page: the API's problem document, made readable.
"""

import json
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.dashboard import render
from core.errors import Forbidden
from mixkd.contract.problems import Problem

_OF_THE_API = ("/v1/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics")

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # not `no-referrer`: forms would send `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",  # after signing out, going back shows nothing
}


class Browser:
    """Pure ASGI: pages and streams pass as they come; only problem documents are held and rewritten."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; those of the API are none of ours."""
        if scope["type"] != "http" or scope["path"].startswith(_OF_THE_API):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _Answer(scope, headers, send)
        app = self.app
        if scope["method"] not in ("GET", "HEAD") and not _is_ours(headers):
            app = problems.respond(scope, _foreign(headers))
        await app(scope, receive, answer.send)


def _is_ours(headers: Headers) -> bool:
    """Whether one of our own pages sent this. Every browser names the Origin of a change."""
    host = headers.get("host")
    return bool(host) and headers.get("origin", "").partition("://")[2] == host


def _foreign(headers: Headers) -> Forbidden:
    given = headers.get("origin")
    detail = "this change did not come from a page of this service"
    remedy = "do it on the page itself; behind a proxy, let that pass the Host header on as it came"
    return Forbidden(detail, Problem("Origin", detail, given, remedy))


class _Answer:
    """Puts the headers on, and holds back a problem document until it is whole."""

    def __init__(self, scope: Scope, headers: Headers, send: Send) -> None:
        self._scope = scope
        self._headers = headers
        self._send = send
        self._held: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type") == problems.MEDIA_TYPE and self._wants_a_page():
                self._held = message
                return
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        elif self._held is not None:
            self._body += message.get("body", b"")
            if message.get("more_body"):
                return
            page = self._page(json.loads(self._body))
            for name, value in Headers(scope=self._held).items():
                if name in ("x-request-id", "retry-after"):
                    page.headers[name] = value
            page.headers.update(HEADERS)
            self._held = None
            await page(self._scope, _nothing, self._send)
            return
        await self._send(message)

    def _wants_a_page(self) -> bool:
        return self._is_partial() or "text/html" in self._headers.get("accept", "")

    def _is_partial(self) -> bool:
        return self._headers.get("hx-request") == "true"

    def _page(self, problem: dict[str, object]) -> Response:
        status = int(str(problem["status"]))
        if status == 401:
            sign_in = f"/sign-in?next={quote(_place(self._scope), safe='')}"
            if self._is_partial():
                return Response(status_code=401, headers={"HX-Redirect": "/sign-in"})
            return RedirectResponse(sign_in, 303)
        if self._is_partial():
            answer = HTMLResponse(render.html("_problem.html", problem=problem), status)
            answer.headers.update(
                {"HX-Retarget": "#notice", "HX-Reswap": "innerHTML", "HX-Reselect": ".notice"}
            )
            return answer
        return HTMLResponse(render.html("error.html", problem=problem, viewer=None), status)


def _place(scope: Scope) -> str:
    """Where somebody wanted to go; after a change that would be nowhere to go to."""
    if scope["method"] != "GET":
        return "/"
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
