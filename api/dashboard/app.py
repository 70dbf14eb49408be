"""Puts the dashboard into the application: its pages, its files, and what stands before them."""

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from api.dashboard import render, session
from api.dashboard.browser import Browser
from api.dashboard.pages import jobs, new_job, sign_in, tables
from api.routes import students


def install(app: FastAPI) -> None:
    """Add all of it, after every other middleware: `Browser` must be the outermost."""
    app.mount("/static", GZipMiddleware(_Static(directory=render.STATIC)))
    app.include_router(sign_in.router, include_in_schema=False)
    for router in (new_job.router, jobs.router, students.router, tables.router):
        app.include_router(router, dependencies=[Depends(session.require_viewer)], include_in_schema=False)
    app.add_route("/docs", _api_docs(app), include_in_schema=False)
    app.add_middleware(Browser)


def _api_docs(app: FastAPI) -> Callable[[Request], Response]:
    """What FastAPI would serve at `/docs`, without a line from another host."""

    def docs(_: Request) -> Response:
        page = get_swagger_ui_html(
            openapi_url=app.openapi_url or "",
            title="mixkd API",
            swagger_js_url=render.static("vendor/swagger-ui.js"),
            swagger_css_url=render.static("vendor/swagger-ui.css"),
            swagger_favicon_url=render.static("icon.svg"),
        )
        page.headers["Content-Security-Policy"] = "frame-ancestors 'none'"  # keys are typed into it
        return page

    return docs


class _Static(StaticFiles):
    """Files whose address changes with them, see `render.static`: a browser need never ask again."""

    def file_response(self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        versioned = b"v=" in scope.get("query_string", b"") and "range" not in Headers(scope=scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if versioned else "no-cache"
        return response
