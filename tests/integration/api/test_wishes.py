"""What a user asks of a job over HTTP, in every state that it may be in."""

from datetime import datetime

import pytest
from sqlalchemy import text

from core.jobs import claims, ends
from core.jobs.states import FailureCause

WISHES = ("cancel", "pause", "resume", "finish", "retry")
AFTER = {  # what becomes of a job in a state; None: 409
    "queued": {
        "cancel": "cancelled",
        "pause": "paused",
        "resume": "queued",
        "finish": None,
        "retry": "queued",
    },
    "running": dict.fromkeys(WISHES, "running"),
    "paused": {
        "cancel": "cancelled",
        "pause": "paused",
        "resume": "queued",
        "finish": None,
        "retry": "paused",
    },
    "failed": {"cancel": "failed", "pause": None, "resume": None, "finish": None, "retry": "queued"},
    "cancelled": {"cancel": "cancelled", "pause": None, "resume": None, "finish": None, "retry": "queued"},
    "succeeded": {"cancel": "succeeded", "pause": None, "resume": None, "finish": None, "retry": None},
}


@pytest.fixture
def job_in(api, request_body, run_by_worker, sessions):
    """Make a job of some state; its id."""

    def make(status: str) -> str:
        job_id = api.post("/v1/jobs", json=request_body).json()["id"]
        if status in ("paused", "cancelled"):
            api.post(f"/v1/jobs/{job_id}/{'pause' if status == 'paused' else 'cancel'}")
        elif status != "queued":
            token = run_by_worker()
            with sessions.begin() as session:
                if status == "failed":
                    ends.fail(session, token, ends.OVERDUE)
                elif status == "succeeded":
                    ends.succeed(session, token, {}, {}, {})
        assert api.get(f"/v1/jobs/{job_id}").json()["status"] == status
        return job_id

    return make


def seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def types(api, job_id: str) -> list[str]:
    return [event["type"] for event in api.get(f"/v1/jobs/{job_id}/events").json()["items"]]


@pytest.mark.parametrize("status", AFTER)
@pytest.mark.parametrize("wish", WISHES)
def test_a_wish_is_granted_or_refused_with_a_reason(api, job_in, status, wish):
    job_id = job_in(status)
    for _ in range(2):  # asked twice, nothing more happens
        answer = api.post(f"/v1/jobs/{job_id}/{wish}")
        after = AFTER[status][wish]
        if after is None:
            assert answer.status_code == 409
            assert f"a job that is {status}" in answer.json()["detail"]
            [problem] = answer.json()["errors"]
            assert (problem["field"], problem["value"]) == ("job_id", job_id)
            assert problem["remedy"]
            assert api.get(f"/v1/jobs/{job_id}").json()["status"] == status
        else:
            assert (answer.status_code, answer.json()["status"]) == (200, after)
        told = types(api, job_id)
    assert types(api, job_id) == told
    assert len(told) == len([*dict.fromkeys(told)]), "no event twice"


@pytest.mark.parametrize(
    ("wish", "column"),
    [("cancel", "cancel_requested_at"), ("pause", "pause_requested_at"), ("finish", "finish_requested_at")],
)
def test_a_running_job_shows_what_was_asked_of_it(api, job_in, wish, column):
    job_id = job_in("running")
    assert api.get(f"/v1/jobs/{job_id}").json()[column] is None
    asked = api.post(f"/v1/jobs/{job_id}/{wish}").json()[column]
    assert asked is not None
    assert api.post(f"/v1/jobs/{job_id}/{wish}").json()[column] == asked
    assert types(api, job_id)[-1] == f"{wish}_requested"


def test_a_request_to_pause_can_be_taken_back(api, job_in):
    job_id = job_in("running")
    api.post(f"/v1/jobs/{job_id}/pause")
    assert api.post(f"/v1/jobs/{job_id}/resume").json()["pause_requested_at"] is None
    assert types(api, job_id)[-2:] == ["pause_requested", "resumed"]


def test_a_job_about_to_be_cancelled_is_asked_for_nothing_else(api, job_in):
    """A 200 would promise that it goes on."""
    job_id = job_in("running")
    api.post(f"/v1/jobs/{job_id}/cancel")
    for wish in ("pause", "resume", "finish", "retry"):
        answer = api.post(f"/v1/jobs/{job_id}/{wish}")
        assert answer.status_code == 409
        assert "about to be cancelled" in answer.json()["detail"]
        assert answer.json()["errors"][0]["remedy"] == "retry it once it is cancelled"
    assert types(api, job_id) == ["queued", "claimed", "cancel_requested"]


def test_a_wish_to_finish_outlives_a_pause(api, job_in, sessions):
    """Whoever wants the best so far wants it also if the worker dies or is freed before it obeyed."""
    job_id = job_in("running")
    asked = api.post(f"/v1/jobs/{job_id}/finish").json()["finish_requested_at"]
    api.post(f"/v1/jobs/{job_id}/pause")
    with sessions.begin() as session:
        ends.paused(session, session.scalar(text("SELECT lease_token FROM jobs")))
    for wish, status in (("pause", "paused"), ("resume", "queued")):
        job = api.post(f"/v1/jobs/{job_id}/{wish}").json()
        assert (job["status"], job["finish_requested_at"], job["pause_requested_at"]) == (status, asked, None)


def test_a_waiting_job_says_for_what_it_waits_and_where_it_would_go_on(api, request_body, job_in, sessions):
    job_id = job_in("running")
    crash = ends.Failure(FailureCause.INTERNAL, "it crashed")
    with sessions.begin() as session:
        token = session.scalar(text("SELECT lease_token FROM jobs"))
        stored = claims.StoredCheckpoint(attempt=1, phase="distil", step=100, files={})
        claims.keep_checkpoint(session, token, stored)
        assert ends.fail(session, token, crash, retry_seconds=600) == "queued"
    other = api.post("/v1/jobs", json=request_body).json()
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert job["not_before"] > job["queued_at"]
    assert job["checkpoint"] == {"attempt": 1, "phase": "distil", "step": 100}
    assert (job["attempts"], job["failure"], job["phase"]) == (1, None, None)
    assert {job["queue_position"], other["queue_position"]} == {1, 2}
    assert (other["not_before"], other["checkpoint"], other["deadline_at"]) == (None, None, None)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_retried_job_has_all_its_tries_and_its_time_again(
    api, request_body, run_by_worker, sessions, status
):
    body = request_body | {"deadline_seconds": 600}
    first = api.post("/v1/jobs", json=body).json()
    token = run_by_worker()
    api.post(f"/v1/jobs/{first['id']}/{'cancel' if status == 'cancelled' else 'finish'}")
    with sessions.begin() as session:
        ends.fail(session, token, ends.OVERDUE)
    ended = api.get(f"/v1/jobs/{first['id']}").json()
    assert (ended["status"], ended["finish_requested_at"]) == (status, None)
    again = api.post(f"/v1/jobs/{first['id']}/retry").json()
    assert (again["status"], again["failure"], again["finished_at"]) == ("queued", None, None)
    assert (again["cancel_requested_at"], again["queue_position"]) == (None, 1)
    assert seconds(again["queued_at"], again["deadline_at"]) == pytest.approx(600, abs=1)
    assert again["deadline_at"] > first["deadline_at"]
    with sessions() as session:
        assert session.scalar(text("SELECT charged_failures FROM jobs")) == 0


def test_the_priority_of_a_waiting_job_decides_its_place(api, job_in):
    first, second = job_in("queued"), job_in("queued")
    for _ in range(2):
        assert api.patch(f"/v1/jobs/{second}", json={"priority": 90}).json()["queue_position"] == 1
    assert api.get(f"/v1/jobs/{first}").json()["queue_position"] == 2
    assert types(api, second) == ["queued", "priority"]


@pytest.mark.parametrize("status", AFTER)
def test_only_a_waiting_job_gets_another_priority(api, job_in, status):
    job_id = job_in(status)
    answer = api.patch(f"/v1/jobs/{job_id}", json={"priority": 1})
    waits = status in ("queued", "paused")
    assert answer.status_code == (200 if waits else 409)
    assert api.get(f"/v1/jobs/{job_id}").json()["priority"] == (1 if waits else 50)
    if not waits:
        assert answer.json()["errors"][0]["remedy"]


@pytest.mark.parametrize("body", [{"priority": 101}, {"priority": -1}, {"priority": None}, {}, {"name": "x"}])
def test_a_change_that_makes_no_sense_is_refused(api, job_in, body):
    answer = api.patch(f"/v1/jobs/{job_in('queued')}", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] in ("priority", "name")


def test_jobs_past_their_deadline_fail_while_they_wait(api, request_body, sessions):
    body = request_body | {"deadline_seconds": 600}
    queued, paused = (api.post("/v1/jobs", json=body).json()["id"] for _ in range(2))
    api.post(f"/v1/jobs/{paused}/pause")
    untouched = api.post("/v1/jobs", json=request_body).json()["id"]
    with sessions.begin() as session:
        assert ends.fail_overdue(session) == []
        session.execute(text("UPDATE jobs SET deadline_at = clock_timestamp() WHERE deadline_at IS NOT NULL"))
        assert set(ends.fail_overdue(session)) == {queued, paused}
        assert ends.fail_overdue(session) == []
    for job_id in (queued, paused):
        job = api.get(f"/v1/jobs/{job_id}").json()
        assert (job["status"], job["failure"]["cause"]) == ("failed", "deadline_exceeded")
        assert job["failure"]["field"] == "deadline_seconds"
        assert types(api, job_id)[-1] == "failed"
    assert api.get(f"/v1/jobs/{untouched}").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"resources": {"device": "tpu"}}, "resources.device"),
        ({"resources": {"gpus": 2}}, "resources"),
        ({"resources": {"device": "cpu", "gpu_type": "h100"}}, "resources"),
        ({"resources": {"device": "gpu", "gpus": 65}}, "resources.gpus"),
        ({"resources": {"device": "gpu", "gpu_type": ""}}, "resources.gpu_type"),
        ({"resources": {"gpu": 1}}, "resources.gpu"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"deadline_seconds": 10**12}, "deadline_seconds"),
    ],
)
def test_what_no_worker_could_have_is_refused(api, request_body, change, field):
    answer = api.post("/v1/jobs", json=request_body | change)
    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert problem["field"] == field
    assert problem["remedy"]


def test_resources_are_shown_as_they_were_asked_for(api, request_body):
    wanted = {"device": "gpu", "gpu_type": "H100", "gpus": 4}
    job = api.post("/v1/jobs", json=request_body | {"resources": wanted}).json()
    assert job["resources"] == wanted


@pytest.mark.parametrize("change", [{"resources": {"device": "cpu"}}, {"deadline_seconds": 60}])
def test_a_repetition_that_asks_for_something_else_is_a_conflict(api, request_body, change):
    key = {"Idempotency-Key": "of-this-submission"}
    first = api.post("/v1/jobs", json=request_body | {"resources": {}}, headers=key).json()
    assert api.post("/v1/jobs", json=request_body, headers=key).json() == first, "defaults spelled out or not"
    assert api.post("/v1/jobs", json=request_body | change, headers=key).status_code == 409
    assert len(api.get("/v1/jobs").json()["items"]) == 1


def test_another_owners_job_is_asked_in_vain(api, client_of, job_in):
    bob, job_id = client_of("bob"), job_in("queued")
    assert {bob.post(f"/v1/jobs/{job_id}/{wish}").status_code for wish in WISHES} == {404}
    assert bob.patch(f"/v1/jobs/{job_id}", json={"priority": 1}).status_code == 404
    assert types(api, job_id) == ["queued"]
