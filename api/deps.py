"""What a route may ask for, as annotated types.

    def read(job_id: Id, session: Session, principal: Principal) -> JobView: ...

One session a request, committed once, *before* the response leaves: FastAPI ends other dependencies after
the response, and a commit that failed would still have answered 201.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, cast

import sqlalchemy.orm
from fastapi import Depends, Request
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

import core.accounts.service
import core.config
import core.db
import core.queue
import core.storage
from api.problems import query_fields
from core.db import CONNECTIONS
from core.errors import Unauthenticated

_AFTER_COMMIT = "after_commit"
_bearer = HTTPBearer(auto_error=False, bearerFormat="mixkd_…", description="an API key")


TURNS = CONNECTIONS - 5
"""How many requests may have a session at the same time.

A request that has one needs thread after thread to go on: for its route, for its answer, for its commit. Were
all threads taken by others that wait for a connection, and all connections by such requests, nothing would
move. So the others wait here, without a thread, and some connections are left for what is done in one go.
"""


async def _session(request: Request) -> AsyncIterator[sqlalchemy.orm.Session]:
    async with request.app.state.turns, contextmanager_in_threadpool(_transaction(request)) as session:
        yield session


@contextmanager
def _transaction(request: Request) -> Iterator[sqlalchemy.orm.Session]:
    with request.app.state.sessions() as session:
        yield session
        session.commit()
        for send in session.info.pop(_AFTER_COMMIT, []):
            send()


def after_commit(session: sqlalchemy.orm.Session, send: Callable[[], object]) -> None:
    """Call `send` once the session's transaction has committed, and never if it has not.

    What it sends is a hint (the row is the truth), so it must not raise.
    """
    session.info.setdefault(_AFTER_COMMIT, []).append(send)


def require_principal(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> core.accounts.service.Principal:
    """Whom `api.middleware.Authentication` found; the bearer scheme is here for the OpenAPI document."""
    principal = getattr(request.state, "principal", None)
    if principal is None:
        raise Unauthenticated("send an API key: 'Authorization: Bearer mixkd_…'")
    return cast("core.accounts.service.Principal", principal)


def refuse_unknown_query(request: Request) -> None:
    """A query parameter on a route that takes none. Where a route takes some, their model refuses the others.

    Raises:
        RequestValidationError: as that model would.
    """
    if request.query_params and not query_fields(request.scope.get("route")):
        raise RequestValidationError(
            [
                {"type": "extra_forbidden", "loc": ("query", name), "msg": "", "input": value}
                for name, value in request.query_params.items()
            ]
        )


def _settings(request: Request) -> core.config.Settings:
    return cast("core.config.Settings", request.app.state.settings)


def _sessions(request: Request) -> core.db.SessionFactory:
    """For what takes long: it opens its own transactions, each as short as it can be."""
    return cast("core.db.SessionFactory", request.app.state.sessions)


def _storage(request: Request) -> core.storage.Storage:
    return cast("core.storage.Storage", request.app.state.storage)


def _queue(request: Request) -> core.queue.Queue:
    return cast("core.queue.Queue", request.app.state.queue)


Session = Annotated[sqlalchemy.orm.Session, Depends(_session, scope="function")]
Principal = Annotated[core.accounts.service.Principal, Depends(require_principal)]
Settings = Annotated[core.config.Settings, Depends(_settings)]
Sessions = Annotated[core.db.SessionFactory, Depends(_sessions)]
Storage = Annotated[core.storage.Storage, Depends(_storage)]
Queue = Annotated[core.queue.Queue, Depends(_queue)]
