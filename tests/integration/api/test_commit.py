"""What is answered and sent when the commit fails: nothing that is not so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from fastapi import FastAPI
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from core.jobs.models import Job
from core.queue import CPU_JOBS


def messages(broker_url: str) -> int:
    with redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://")) as broker:
        return int(broker.llen(CPU_JOBS))  # type: ignore[arg-type]  # redis-py types it for its async client too


@contextmanager
def before_commit(app: FastAPI, do: Callable[[Session], None]) -> Iterator[None]:
    event.listen(app.state.sessions, "before_commit", do)
    try:
        yield
    finally:
        event.remove(app.state.sessions, "before_commit", do)


def die(session: Session) -> None:
    """The database loses the connection in the last moment, as when it fails over."""
    session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


def break_a_rule(session: Session) -> None:
    session.execute(text("UPDATE jobs SET status = 'running'"))


@pytest.mark.parametrize(
    ("do", "status", "code"), [(die, 503, "unavailable"), (break_a_rule, 500, "internal")]
)
def test_a_commit_that_fails_is_not_a_201_and_sends_no_message(
    app, api, request_body, sessions, broker_url, *, do, status, code
):
    with before_commit(app, do):
        answer = api.post("/v1/jobs", json=request_body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert messages(broker_url) == 0


def test_the_message_goes_out_after_the_commit(app, api, request_body, sessions, broker_url):
    seen: list[int] = []
    with before_commit(app, lambda _: seen.append(messages(broker_url))):
        assert api.post("/v1/jobs", json=request_body).status_code == 201
    assert seen == [0]
    assert messages(broker_url) == 1


def test_nothing_is_sent_for_a_repetition_or_a_refusal(api, request_body, broker_url):
    key = {"Idempotency-Key": "once"}
    for _ in range(2):
        api.post("/v1/jobs", json=request_body, headers=key)
    api.post("/v1/jobs", json=request_body | {"priority": 200})
    assert messages(broker_url) == 1


def test_an_api_that_is_frozen_in_a_transaction_keeps_no_job_from_its_worker(app, api, request_body):
    """The server ends the transaction after half a lease, so that its worker can still renew."""
    assert api.post("/v1/jobs", json=request_body).status_code == 201
    half_a_lease = f"{app.state.settings.lease_seconds / 2:g}s"
    with app.state.sessions() as session:
        limit = session.scalar(text("SHOW idle_in_transaction_session_timeout"))
    assert limit == half_a_lease
