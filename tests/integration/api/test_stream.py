"""Following a job by server-sent events."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from sqlalchemy.event import listen, remove

from api.stream import BATCH
from core.db import SessionFactory
from core.jobs import claims, ends
from mixkd.contract.messages import Progress
from tests.support.waiting import until


def parse(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as the HTML standard reads them (one line of data each)."""
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


@contextmanager
def follow(api: httpx.Client, job_id: str, query: str = "", **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with api.stream("GET", f"/v1/jobs/{job_id}/events/stream{query}", headers=named) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield parse(answer.iter_lines())


@pytest.fixture
def job_id(api, request_body) -> str:
    return api.post("/v1/jobs", json=request_body).json()["id"]


def test_a_finished_job_is_told_to_its_end_and_then_the_stream_ends(api, job_id, run_by_worker, finish):
    finish(run_by_worker(), {})
    with follow(api, job_id) as events:
        told = list(events)
    assert [(event["id"], event["event"]) for event in told] == [
        ("1", "queued"),
        ("2", "claimed"),
        ("3", "succeeded"),
    ]
    assert [json.loads(event["data"]) for event in told] == api.get(f"/v1/jobs/{job_id}/events").json()[
        "items"
    ]


def test_a_long_story_is_told_whole(api, job_id, sessions, run_by_worker):
    """More events than one read of the table brings, of a job that has ended already."""
    token = run_by_worker()
    with sessions.begin() as session:
        for number in range(2 * BATCH + 1):
            claims.enter_phase(session, token, ("teach", "distil")[number % 2])
        ends.cancelled(session, token)
    with follow(api, job_id) as events:
        assert [int(event["id"]) for event in events] == list(range(1, 2 * BATCH + 5))


@pytest.mark.parametrize(
    ("query", "headers"),
    [("", {"Last_Event_ID": "2"}), ("?after=2", {}), ("?after=0", {"Last_Event_ID": "2"})],
)
def test_a_resumed_stream_starts_after_what_was_seen(api, job_id, run_by_worker, finish, *, query, headers):
    finish(run_by_worker(), {})
    with follow(api, job_id, query, **headers) as events:
        assert [event["id"] for event in events] == ["3"]


def test_whoever_has_seen_the_end_is_told_not_to_come_back(api, client_of, job_id, run_by_worker, finish):
    path = f"/v1/jobs/{job_id}/events/stream"
    finish(run_by_worker(), {})
    for told in (api.get(path, headers={"Last-Event-ID": "3"}), api.get(f"{path}?after=3")):
        assert (told.status_code, told.content) == (204, b"")
    assert client_of("eve").get(f"{path}?after=3").status_code == 404


def test_the_last_event_of_a_job_that_goes_on_is_no_end(api, job_id):
    with follow(api, job_id, "?after=1") as events:
        assert api.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        assert [event["event"] for event in events] == ["cancelled"]


def test_a_stream_ends_when_its_key_is_revoked(api, client_of, job_id):
    revoked = client_of("ada")
    (key, *_) = revoked.get("/v1/keys").json()["items"]  # the newest is its own
    with follow(revoked, job_id) as events:
        assert next(events)["event"] == "queued"
        assert api.delete(f"/v1/keys/{key['id']}").status_code == 204
        assert list(events) == []
        assert revoked.get(f"/v1/jobs/{job_id}").status_code == 401
        assert api.get(f"/v1/jobs/{job_id}").status_code == 200


@pytest.mark.parametrize(("query", "last"), [("", "x"), ("", "-1"), ("?after=-1", None), ("?aftr=1", None)])
def test_a_place_that_cannot_be_is_refused(api, job_id, query, last):
    headers = {"Last-Event-ID": last} if last else {}
    answer = api.get(f"/v1/jobs/{job_id}/events/stream{query}", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].lower() in ("last-event-id", "after", "aftr")


def test_events_and_progress_arrive_as_they_happen(api, job_id, sessions, run_by_worker, finish):
    with follow(api, job_id) as events:
        assert next(events)["event"] == "queued"
        token = run_by_worker()
        assert next(events)["event"] == "claimed"
        with sessions.begin() as session:
            claims.enter_phase(session, token, "distil", 100)
        assert next(events)["event"] == "phase"
        with sessions.begin() as session:
            claims.progress(session, token, Progress(phase="distil", step=7, steps=100, loss=0.5))
        snapshot = next(events)
        assert snapshot["event"] == "progress"
        assert "id" not in snapshot, "a snapshot is not history: it must not move the place to resume from"
        assert json.loads(snapshot["data"])["step"] == 7
        finish(token, {})
        assert [event["event"] for event in events] == ["succeeded"]


def test_a_stream_cut_anywhere_and_resumed_neither_repeats_nor_skips(
    api, job_id, sessions: SessionFactory, run_by_worker
):
    """A writer goes on while the reader is cut off after every few events and comes back."""
    token = run_by_worker()
    rounds = 60

    def write() -> None:
        for number in range(rounds):
            with sessions.begin() as session:
                claims.enter_phase(session, token, ("teach", "distil")[number % 2])
        with sessions.begin() as session:
            ends.cancelled(session, token)

    seen: list[int] = []
    cut = 1
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while True:
            with follow(api, job_id, Last_Event_ID=str(seen[-1] if seen else 0)) as events:
                for count, event in enumerate(events):
                    seen.append(int(event["id"]))
                    if count >= cut:
                        break
                else:
                    break  # the server ended the stream
            cut = cut % 7 + 1
        writing.result(60)
    assert seen == list(range(1, rounds + 4))  # queued, claimed, the phases, cancelled


def test_a_quiet_stream_holds_no_database_connection(app, api, job_id):
    reads = []

    def count(*_: object) -> None:
        reads.append(1)

    with follow(api, job_id) as events:
        next(events)
        listen(app.state.engine, "checkout", count)
        try:
            until(lambda: len(reads) >= 3, what="it reads the table again and again")
        finally:
            remove(app.state.engine, "checkout", count)
        until(lambda: app.state.engine.pool.checkedout() == 0, what="it gives its connection back")


def test_many_streams_leave_room_for_requests(api, job_id):
    """More followers than the pool has connections."""
    barrier = threading.Barrier(26)

    def watch() -> str:
        with (
            httpx.Client(base_url=api.base_url, headers=api.headers, timeout=60) as own,
            follow(own, job_id) as events,
        ):
            next(events)
            barrier.wait(60)
            return list(events)[-1]["event"]

    with ThreadPoolExecutor(25) as pool:
        watchers = [pool.submit(watch) for _ in range(25)]
        barrier.wait(60)
        assert api.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        assert {watcher.result(60) for watcher in watchers} == {"cancelled"}
