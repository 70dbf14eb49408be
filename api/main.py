"""The application: its parts, its routes, its order of things."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from api import deps, middleware, problems
from api.dashboard import app as dashboard
from api.routes import datasets, health, jobs, keys, metrics, models, students, workers
from api.schemas.common import ProblemDocument
from core import db, schema
from core.config import Settings
from core.queue import Queue
from core.storage import Storage

DESCRIPTION = """
Distillation as a job: name a teacher and a data set; a worker trains a small student with MixKD.

Every error is `application/problem+json` and names the field, the value and the remedy. A POST that makes
something may carry an `Idempotency-Key`; its repetition makes nothing new.
"""

_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ProblemDocument, "description": "No key, or not a valid one"},
    404: {"model": ProblemDocument, "description": "There is no such thing, or it is another owner's"},
    409: {"model": ProblemDocument, "description": "The present state does not allow this"},
    413: {"model": ProblemDocument, "description": "The body is too large"},
    422: {"model": ProblemDocument, "description": "The request cannot be carried out as it stands"},
    503: {"model": ProblemDocument, "description": "A part of the service is not available"},
}


def create_app(settings: Settings) -> FastAPI:
    """The API. Nothing is connected before the application starts.

    `app.state` then holds `settings, engine, sessions, storage, queue`, `stopping`, which ends streams, and
    `turns`, which requests with a session take.

    Raises (at start):
        core.schema.SchemaTooOld: the database has to be migrated first.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = db.connect(settings, longest_pause=settings.lease_seconds / 2)
        try:
            schema.require_current(engine)
            app.state.engine = engine
            app.state.sessions = db.session_factory(engine)
            app.state.storage = Storage(settings.storage_url)
            app.state.queue = Queue(settings.broker_url.get_secret_value())
            app.state.stopping = asyncio.Event()
            app.state.turns = asyncio.Semaphore(deps.TURNS)
            yield
        finally:
            engine.dispose()

    app = FastAPI(
        title="mixkd",
        version="1",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # api.dashboard serves it, out of our own files
        redoc_url=None,
        redirect_slashes=False,  # a redirected POST loses its body in many clients
    )
    app.state.settings = settings
    problems.install(app)

    for router in (health.router, metrics.router):
        app.include_router(router, responses={503: _ERRORS[503]})
    for router in (datasets.router, models.router, jobs.router, students.router, workers.router, keys.router):
        app.include_router(
            router,
            prefix="/v1",
            dependencies=[Depends(deps.require_principal), Depends(deps.refuse_unknown_query)],
            responses=_ERRORS,
        )

    # The last one added is the outermost.
    uploads = dict.fromkeys(("/v1/datasets", "/v1/models/upload"), settings.max_upload_bytes)
    app.add_middleware(middleware.BodyLimit, limits=uploads)
    app.add_middleware(middleware.Authentication, api=app)
    app.add_middleware(middleware.RequestContext)
    dashboard.install(app)

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # FastAPI documents this very way
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with the media type that our errors have."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in document["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if status >= "400":
                        problem = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
                        response["content"] = {problems.MEDIA_TYPE: problem}
        app.openapi_schema = document
    return app.openapi_schema
