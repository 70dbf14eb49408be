"""The dashboard as a browser meets it: cookies, forms and pages over the real server."""

import socket
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import select

from api.main import create_app
from core.accounts import service as accounts
from core.accounts.models import Owner
from core.config import Settings
from core.db import SessionFactory
from tests.support.pages import BROWSER
from tests.support.waiting import until

BrowserOf = Callable[..., httpx.Client]


@pytest.fixture
def new_key(sessions: SessionFactory) -> Callable[[str], str]:
    """`new_key("ada")`: a fresh key of that owner."""

    def make(owner: str) -> str:
        with sessions.begin() as session:
            return accounts.create_key(session, owner, "test")[1]

    return make


@pytest.fixture
def browser_of(base_url: str, new_key: Callable[[str], str]) -> Iterator[BrowserOf]:
    """`browser_of("ada")`: a browser where ada has signed in; `browser_of(None)`: where nobody has."""
    opened: list[httpx.Client] = []

    def make(owner: str | None, url: str = base_url) -> httpx.Client:
        opened.append(httpx.Client(base_url=url, headers={**BROWSER, "Origin": url}, timeout=120))
        if owner is not None:
            assert opened[-1].post("/sign-in", data={"key": new_key(owner)}).status_code == 303
        return opened[-1]

    yield make
    for browser in opened:
        browser.close()


@pytest.fixture
def browser(browser_of: BrowserOf) -> httpx.Client:
    """A browser where the owner `ada` has signed in."""
    return browser_of("ada")


@pytest.fixture
def stranger(browser_of: BrowserOf) -> httpx.Client:
    """A browser where nobody has signed in."""
    return browser_of(None)


@pytest.fixture
def revoke_keys(sessions: SessionFactory) -> Callable[[str], None]:
    """`revoke_keys("ada")`: end every key of that owner."""

    def revoke(owner: str) -> None:
        with sessions.begin() as session:
            owner_id = session.scalars(select(Owner.id).where(Owner.name == owner)).one()
            for key in accounts.list_keys(session, owner_id):
                accounts.revoke_key(session, owner_id, key.id)

    return revoke


@pytest.fixture
def replace(app: FastAPI, base_url: str) -> Iterator[Callable[[str, object], None]]:
    """Put something else in the place of a part of the running application, for one test."""
    parts = {name: getattr(app.state, name) for name in ("sessions", "settings")}
    yield lambda name, part: setattr(app.state, name, part)
    for name, part in parts.items():
        setattr(app.state, name, part)


@pytest.fixture
def job_id(api: httpx.Client, request_body: dict[str, object]) -> str:
    """A queued job of ada's."""
    return str(api.post("/v1/jobs", json=request_body).json()["id"])


@pytest.fixture
def other_url(settings: Settings) -> Iterator[str]:
    """Another API process's server, on the same settings."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings), log_config=None, access_log=False, timeout_graceful_shutdown=2)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        until(lambda: server.started or not thread.is_alive(), what="the other server starts")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
