"""Sending a POST again makes nothing new."""

import time
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select, text

from core.accounts import idempotency
from core.accounts.models import ApiKey, IdempotencyKey
from core.db import SessionFactory
from core.jobs.models import Job, JobEvent

KEY = {"Idempotency-Key": "8e03978e-40d5-43e8-bc93-6894a57f9324"}


def count(sessions: SessionFactory, table: type) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_repetition_answers_with_the_first_ones_job(api, request_body, sessions):
    first = api.post("/v1/jobs", json=request_body, headers=KEY)
    assert "Idempotent-Replay" not in first.headers
    spelled_out = dict(reversed(request_body.items())) | {"priority": 50}  # the default: the same request
    again = api.post("/v1/jobs", json=spelled_out, headers=KEY)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["Idempotent-Replay"] == "true"
    assert again.json() == first.json()
    assert count(sessions, Job) == count(sessions, JobEvent) == 1


def test_a_repetition_shows_the_job_as_it_is_by_then(api, request_body):
    job_id = api.post("/v1/jobs", json=request_body, headers=KEY).json()["id"]
    api.post(f"/v1/jobs/{job_id}/cancel")
    again = api.post("/v1/jobs", json=request_body, headers=KEY)
    assert again.status_code == 201
    assert (again.json()["id"], again.json()["status"]) == (job_id, "cancelled")


def test_the_same_key_for_something_else_is_a_conflict(api, request_body, sessions):
    api.post("/v1/jobs", json=request_body, headers=KEY)
    for path, body in [("/v1/jobs", request_body | {"priority": 51}), ("/v1/keys", {"name": "laptop"})]:
        answer = api.post(path, json=body, headers=KEY)
        assert answer.status_code == 409
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert count(sessions, Job) == 1
    assert count(sessions, ApiKey) == 1


def test_requests_at_the_same_moment_make_one_job(api, request_body, sessions):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: api.post("/v1/jobs", json=request_body, headers=KEY), range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replay" not in answer.headers for answer in answers) == 1
    assert count(sessions, Job) == 1


def test_the_second_waits_for_the_first_and_goes_on_if_that_fails(owner_id, sessions):
    request = idempotency.repeatable(owner_id, "k", "jobs", {"a": 1})

    def second() -> str | None:
        with sessions.begin() as session:
            return idempotency.claim(session, request, "job_2")

    with ThreadPoolExecutor(1) as pool, sessions() as first:
        assert idempotency.claim(first, request, "job_1") is None
        waiting = pool.submit(second)
        with sessions() as session:
            while not session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                assert not waiting.done(), "the second did not wait"
                time.sleep(0.01)
        first.rollback()
        assert waiting.result(60) is None
    with sessions() as session:
        assert idempotency.find(session, request) == "job_2"


def test_a_request_that_failed_leaves_its_key_free(api, request_body, sessions):
    too_many = request_body | {"recipe": {"student": {"layers": 7}}}
    assert api.post("/v1/jobs", json=too_many, headers=KEY).status_code == 422
    assert count(sessions, IdempotencyKey) == 0
    answer = api.post("/v1/jobs", json=request_body, headers=KEY)
    assert answer.status_code == 201
    assert "Idempotent-Replay" not in answer.headers


def test_keys_are_an_owners_own(api, client_of, sessions):
    made = {
        client.post("/v1/keys", json={"name": "laptop"}, headers=KEY).json()["id"]
        for client in (api, client_of("bob"))
    }
    assert len(made) == 2


def test_an_api_key_is_not_shown_a_second_time(api, sessions):
    first = api.post("/v1/keys", json={"name": "laptop"}, headers=KEY)
    again = api.post("/v1/keys", json={"name": "laptop"}, headers=KEY)
    assert again.status_code == 201
    assert again.headers["Idempotent-Replay"] == "true"
    assert again.json() == first.json() | {"key": None}
    assert first.json()["key"] not in again.text


def test_an_odd_idempotency_key_is_refused(api, request_body, sessions):
    for key in (b"", b"x" * 201, b"two words", b"\xff"):
        answer = api.post("/v1/jobs", json=request_body, headers={b"Idempotency-Key": key})
        assert answer.status_code == 422, key
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert count(sessions, Job) == 0
