"""What a user asks of a job over HTTP, in every state that it may be in."""

import pytest
from sqlalchemy import text

from core.jobs import ends

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


def test_a_job_about_to_be_cancelled_is_neither_paused_nor_finished(api, job_in):
    job_id = job_in("running")
    api.post(f"/v1/jobs/{job_id}/cancel")
    for wish in ("pause", "finish"):
        answer = api.post(f"/v1/jobs/{job_id}/{wish}")
        assert answer.status_code == 409
        assert "about to be cancelled" in answer.json()["detail"]


def test_a_retried_job_has_all_its_tries_and_its_time_again(api, request_body, run_by_worker, sessions):
    body = request_body | {"deadline_seconds": 600}
    first = api.post("/v1/jobs", json=body).json()
    token = run_by_worker()
    with sessions.begin() as session:
        ends.fail(session, token, ends.OVERDUE)
    again = api.post(f"/v1/jobs/{first['id']}/retry").json()
    assert (again["status"], again["failure"], again["finished_at"]) == ("queued", None, None)
    assert again["deadline_at"] > first["deadline_at"]
    with sessions() as session:
        assert session.scalar(text("SELECT charged_failures FROM jobs")) == 0


def test_the_priority_of_a_waiting_job_decides_its_place(api, job_in):
    first, second = job_in("queued"), job_in("queued")
    assert api.patch(f"/v1/jobs/{second}", json={"priority": 90}).json()["queue_position"] == 1
    assert api.get(f"/v1/jobs/{first}").json()["queue_position"] == 2
    assert types(api, second) == ["queued", "priority"]
    assert api.patch(f"/v1/jobs/{first}", json={"priority": 101}).status_code == 422
    assert api.patch(f"/v1/jobs/{job_in('cancelled')}", json={"priority": 1}).status_code == 409


def test_jobs_past_their_deadline_fail_while_they_wait(api, request_body, sessions):
    body = request_body | {"deadline_seconds": 600}
    queued, paused = (api.post("/v1/jobs", json=body).json()["id"] for _ in range(2))
    api.post(f"/v1/jobs/{paused}/pause")
    untouched = api.post("/v1/jobs", json=request_body).json()["id"]
    with sessions.begin() as session:
        assert ends.fail_overdue(session) == []
        session.execute(text("UPDATE jobs SET deadline_at = clock_timestamp() WHERE deadline_at IS NOT NULL"))
        assert set(ends.fail_overdue(session)) == {queued, paused}
    for job_id in (queued, paused):
        failure = api.get(f"/v1/jobs/{job_id}").json()["failure"]
        assert (failure["cause"], failure["field"]) == ("deadline_exceeded", "deadline_seconds")
    assert api.get(f"/v1/jobs/{untouched}").json()["status"] == "queued"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"resources": {"device": "tpu"}}, "resources.device"),
        ({"resources": {"gpus": 2}}, "resources"),
        ({"resources": {"device": "cpu", "gpu_type": "h100"}}, "resources"),
        ({"resources": {"device": "gpu", "gpus": 65}}, "resources.gpus"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
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


def test_another_owners_job_is_asked_in_vain(api, client_of, job_in):
    bob, job_id = client_of("bob"), job_in("queued")
    assert {bob.post(f"/v1/jobs/{job_id}/{wish}").status_code for wish in WISHES} == {404}
    assert bob.patch(f"/v1/jobs/{job_id}", json={"priority": 1}).status_code == 404
    assert types(api, job_id) == ["queued"]
