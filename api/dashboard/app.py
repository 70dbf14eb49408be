"""Puts the dashboard into the application: its pages, its files, and what stands before them."""

from typing import Any

from fastapi import Depends, FastAPI
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
    app.add_middleware(Browser)


class _Static(StaticFiles):
    """Files whose address changes with them, see `render.static`: a browser need never ask again."""

    def file_response(self, full_path: Any, stat_result: Any, scope: Any, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        versioned = b"v=" in scope.get("query_string", b"") and "range" not in Headers(scope=scope)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if versioned else "no-cache"
        return response
