"""A page whose API dies under it and comes again, as another process: nothing is missed, nothing twice."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from core.accounts import service as accounts
from core.config import Settings
from core.db import SessionFactory
from core.jobs import claims, repository
from demo.browser import chromium
from mixkd.contract.messages import Metric
from tests.support.browsing import SECONDS, sign_in, visiting
from tests.support.waiting import until

expect.set_options(timeout=SECONDS)
LOST = (
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "ERR_EMPTY_RESPONSE",
    "ERR_CONNECTION_RESET",
    "htmx",
    "network",
)
"""What a browser says of a server that dies."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def api_process(settings: Settings, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """One API process on this port."""
    assert settings.session_secret is not None
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MIXKD_")},
        "MIXKD_DATABASE_URL": settings.database_url.get_secret_value(),
        "MIXKD_BROKER_URL": settings.broker_url.get_secret_value(),
        "MIXKD_STORAGE_URL": settings.storage_url,
        "MIXKD_WORK_DIR": str(settings.work_dir),
        "MIXKD_SESSION_SECRET": settings.session_secret.get_secret_value(),
    }
    command = [sys.executable, "-m", "api", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _answers(port), what="the API")
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
    except httpx.TransportError:
        return False


def log(sessions: SessionFactory, token: UUID, steps: range) -> None:
    """As a worker does: an event and a metric for each step."""
    for step in steps:
        with sessions.begin() as session:
            claims.note(session, token, f"note {step}")
            claims.metrics(session, token, [Metric(phase="distil", step=step, values={"loss": 1 / step})])


def points(page: Page) -> list[int]:
    """The steps that the charts have been told of, in the order of their arrival."""
    steps: list[int] = page.evaluate("window.told")
    return steps


def test_a_page_misses_nothing_while_its_api_is_killed_and_started_again(
    *,
    browser: Browser,
    settings: Settings,
    sessions: SessionFactory,
    port: int,
    api: httpx.Client,
    owner_id: str,
    request_body: dict[str, Any],
    run_by_worker: Callable[[], UUID],
) -> None:
    with sessions.begin() as session:
        key = accounts.create_key(session, "ada", "browser")[1]
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    token = run_by_worker()
    log(sessions, token, range(1, 11))
    with visiting(browser, f"http://127.0.0.1:{port}", expected=LOST) as page:
        with api_process(settings, port) as first:
            sign_in(page, key)
            page.goto(f"/jobs/{job_id}")
            page.evaluate(
                "window.told = []; document.getElementById('live').addEventListener('points', (event) =>"
                " window.told.push(...JSON.parse(event.detail.data).map((point) => point.step)))"
            )
            log(sessions, token, range(11, 16))
            expect(page.locator("#events")).to_contain_text("note 15")
            first.send_signal(signal.SIGKILL)
            first.wait()
            expect(page.locator("#notice")).to_contain_text("cannot be reached")
        log(sessions, token, range(16, 400))  # more than one message carries
        with api_process(settings, port):
            expect(page.locator("#events")).to_contain_text("note 399")
            expect(page.locator("#notice")).to_be_empty()
            log(sessions, token, range(400, 402))
            expect(page.locator("#events")).to_contain_text("note 401")
            with sessions() as session:
                last = repository.get(session, owner_id, job_id).job.event_seq
            shown = [int(each) for each in page.locator("#events .seq").all_inner_texts()]
            assert shown == list(range(last, 0, -1))
            until(lambda: points(page)[-1] == 401)
            assert points(page)[-391:] == list(range(11, 402))
