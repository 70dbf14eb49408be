"""Submitting, listing, reading and cancelling jobs."""

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from core.db import SessionFactory
from core.jobs import claims, ends
from core.jobs.models import Job
from core.jobs.states import FailureCause
from mixkd.contract.messages import Metric, Progress
from mixkd.contract.spec import DistilSpec


def count_jobs(sessions: SessionFactory) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def types(api, job_id: str) -> list[str]:
    return [event["type"] for event in api.get(f"/v1/jobs/{job_id}/events").json()["items"]]


# --- submitting ---------------------------------------------------------------------------------


def test_a_job_is_stored_with_its_whole_recipe_and_its_first_event(api, request_body):
    answer = api.post("/v1/jobs", json=request_body)
    assert answer.status_code == 201
    job = api.get(f"/v1/jobs/{answer.json()['id']}").json()
    assert job == answer.json()
    assert (job["status"], job["queue_position"], job["attempts"], job["priority"]) == ("queued", 1, 0, 50)
    assert job["recipe"] == DistilSpec.model_validate(request_body["recipe"]).model_dump(mode="json")
    assert job["name"] == "MiniLM on questions"
    assert types(api, job["id"]) == ["queued"]


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"recipe": {"student": {"layers": 7}}}, "recipe.student.layers", "6 layers"),
        ({"recipe": {"max_length": 1024}}, "recipe.max_length", "512"),
        ({"recipe": {"teach": {"when": "never"}}}, "recipe.teach.when", "head"),
        ({"recipe": {"mixup": {"alpa": 0.4}}}, "recipe.mixup.alpa", "'alpha'"),
        ({"recipe": {"mixup": {"alpha": -1}}}, "recipe.mixup.alpha", "choose 0.001 or more"),
        ({"recipe": {"loss": {"distance": "mse"}}}, "recipe.loss.distance", "mse_logits"),
        ({"recipe": {"student": {"layers": "three"}}}, "recipe.student.layers", "integer"),
        ({"recipe": None}, "recipe", "valid"),
        ({"dataset_id": None}, "dataset_id", "string"),
        ({"teacher_id": "mdl_\x00"}, "teacher_id", "not an id"),
        ({"teacher_id": "mdl_01aaaaaaaaaaaaaaaaaaaaaaaa"}, "teacher_id", "no model"),
        ({"dataset_id": "ds_01aaaaaaaaaaaaaaaaaaaaaaaa"}, "dataset_id", "no data set"),
        ({"priority": 101}, "priority", "100"),
        ({"name": "two\nlines"}, "name", "one line"),
        ({"name": "  "}, "name", "1 character"),
        ({"techer_id": "mdl_1"}, "techer_id", "'teacher_id'"),
    ],
)
def test_a_job_that_cannot_work_is_refused_by_name_and_nothing_is_stored(
    api, request_body, sessions, *, change, field, words
):
    answer = api.post("/v1/jobs", json=request_body | change)
    assert answer.status_code == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    [problem] = answer.json()["errors"]
    assert problem["field"] == field
    assert words in f"{problem['problem']} {problem['remedy']}"
    assert problem["remedy"]
    assert count_jobs(sessions) == 0


def test_all_that_is_wrong_is_said_at_once(api, request_body, sessions):
    body = request_body | {"recipe": {"student": {"layers": 7}, "max_length": 1024}}
    found = api.post("/v1/jobs", json=body).json()
    assert {error["field"] for error in found["errors"]} == {"recipe.student.layers", "recipe.max_length"}
    assert count_jobs(sessions) == 0


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"status": "importing", "files": None, "info": None}, "wait"),
        ({"status": "refused", "files": None, "info": None, "refusal": {"detail": "pickled"}}, "refusal"),
    ],
)
def test_a_teacher_that_is_not_ready_is_refused(api, request_body, add_teacher, sessions, *, columns, words):
    teacher_id = add_teacher(**columns)
    answer = api.post("/v1/jobs", json=request_body | {"teacher_id": teacher_id})
    assert answer.status_code == 422
    [problem] = answer.json()["errors"]
    assert problem["field"] == "teacher_id"
    assert words in problem["remedy"]
    assert count_jobs(sessions) == 0


def test_a_data_set_that_is_not_ready_is_refused(api, request_body, add_dataset):
    columns = {"status": "importing", "report": None, "fingerprint": None}
    dataset_id = add_dataset(**columns)
    answer = api.post("/v1/jobs", json=request_body | {"dataset_id": dataset_id})
    assert [error["field"] for error in answer.json()["errors"]] == ["dataset_id"]


# --- whose is whose -----------------------------------------------------------------------------


def test_another_owners_things_do_not_exist(api, client_of, request_body, sessions):
    bob = client_of("bob")
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    absent = "job_01aaaaaaaaaaaaaaaaaaaaaaaa"
    for method, tail in [
        ("GET", ""),
        ("POST", "/cancel"),
        *(
            ("GET", f"/{part}")
            for part in ("events", "events/stream", "metrics", "attempts", "report", "student")
        ),
        ("GET", "/student/files/config.json"),
    ]:
        theirs = bob.request(method, f"/v1/jobs/{job_id}{tail}")
        nobodys = bob.request(method, f"/v1/jobs/{absent}{tail}")
        assert theirs.status_code == nobodys.status_code == 404, tail
        expected = json.loads(nobodys.text.replace(absent, job_id))
        assert {**theirs.json(), "request_id": ""} == {**expected, "request_id": ""}
    assert bob.get("/v1/jobs").json()["items"] == []
    stolen = bob.post("/v1/jobs", json=request_body)
    assert {error["field"] for error in stolen.json()["errors"]} == {"teacher_id", "dataset_id"}
    assert api.get(f"/v1/jobs/{job_id}").json()["status"] == "queued"


@pytest.mark.parametrize(
    "job_id", ["x", "job_", "..", "%00", "%ff", "job_01aaaaaaaaaaaaaaaaaaaaaaa%00", "é" * 30]
)
def test_an_odd_id_is_an_unknown_one(api, job_id):
    assert api.get(f"/v1/jobs/{job_id}").status_code == 404


# --- lists --------------------------------------------------------------------------------------


def test_pages_neither_repeat_nor_skip_while_jobs_arrive(api, request_body):
    before = [api.post("/v1/jobs", json=request_body).json()["id"] for _ in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = api.get("/v1/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        api.post("/v1/jobs", json=request_body)
    assert seen == before[::-1]


def test_the_list_filters_by_status_and_refuses_what_it_does_not_know(api, request_body):
    kept = api.post("/v1/jobs", json=request_body).json()["id"]
    gone = api.post("/v1/jobs", json=request_body).json()["id"]
    api.post(f"/v1/jobs/{gone}/cancel")
    assert [job["id"] for job in api.get("/v1/jobs?status=queued").json()["items"]] == [kept]
    assert [job["id"] for job in api.get("/v1/jobs?status=cancelled").json()["items"]] == [gone]
    for query, field in [
        ("status=waiting", "status"),
        ("staus=queued", "staus"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=%00", "cursor"),
        ("cursor=" + "A" * 99, "cursor"),
        ("cursor=AAAA", "cursor"),
    ]:
        answer = api.get(f"/v1/jobs?{query}")
        assert answer.status_code == 422, query
        assert answer.json()["errors"][0]["field"] == field


def test_the_place_in_the_queue_is_that_of_the_claim(api, client_of, request_body, run_by_worker):
    ids = [
        api.post("/v1/jobs", json=request_body | {"priority": priority}).json()["id"]
        for priority in (50, 90, 50, 10)
    ]
    assert [api.get(f"/v1/jobs/{job_id}").json()["queue_position"] for job_id in ids] == [2, 1, 3, 4]
    run_by_worker()
    listed = {job["id"]: job["queue_position"] for job in api.get("/v1/jobs").json()["items"]}
    assert [listed[job_id] for job_id in ids] == [1, None, 2, 3]


# --- cancelling ---------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once_and_only_once(api, request_body):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    first = api.post(f"/v1/jobs/{job_id}/cancel")
    assert first.status_code == 200
    assert first.json()["status"] == "cancelled"
    assert first.json()["finished_at"] is not None
    assert api.post(f"/v1/jobs/{job_id}/cancel").json() == first.json()
    assert types(api, job_id) == ["queued", "cancelled"]


def test_a_running_job_is_asked_to_end_once(api, request_body, run_by_worker):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    run_by_worker()
    first = api.post(f"/v1/jobs/{job_id}/cancel").json()
    assert first["status"] == "running"
    assert first["cancel_requested_at"] is not None
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: api.post(f"/v1/jobs/{job_id}/cancel").json(), range(4)))
    assert all(answer == first for answer in answers)
    assert types(api, job_id) == ["queued", "claimed", "cancel_requested"]


def test_a_finished_job_is_answered_as_it_is(api, request_body, run_by_worker, finish):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    finish(run_by_worker(), {"config.json": b"{}"})
    before = api.get(f"/v1/jobs/{job_id}").json()
    assert before["status"] == "succeeded"
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 200
    assert answer.json() == before
    assert types(api, job_id)[-1] == "succeeded"


def test_cancel_and_claim_at_once_leave_one_story(api, request_body, sessions, run_by_worker):
    """Whoever comes first: the job is never running without the request on it."""
    for _ in range(5):
        job_id = api.post("/v1/jobs", json=request_body).json()["id"]

        def claim_if_any() -> None:
            with contextlib.suppress(AssertionError):  # the cancellation was there first
                run_by_worker()

        with ThreadPoolExecutor(2) as pool:
            claimed = pool.submit(claim_if_any)
            pool.submit(api.post, f"/v1/jobs/{job_id}/cancel").result()
            claimed.result()
        job = api.get(f"/v1/jobs/{job_id}").json()
        assert job["status"] == "cancelled" or job["cancel_requested_at"] is not None
        story = types(api, job_id)
        assert story in (["queued", "cancelled"], ["queued", "claimed", "cancel_requested"])


# --- what came of it ----------------------------------------------------------------------------


def test_a_job_shows_what_its_worker_reports(api, request_body, sessions, run_by_worker):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    token = run_by_worker()
    with sessions.begin() as session:
        claims.enter_phase(session, token, "teach", 40)
        claims.progress(session, token, Progress(phase="teach", step=7, steps=40, loss=1.5))
        logged = [("distil", 5), ("distil", 10), ("teach", 3), ("teach", 20)]
        claims.metrics(
            session,
            token,
            [Metric(phase=phase, step=step, values={"loss": step / 10}) for phase, step in logged],
        )
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["phase"], job["attempts"]) == ("running", "teach", 1)
    assert job["progress"]["step"] == 7
    [attempt] = api.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    assert (attempt["number"], attempt["outcome"]) == (1, None)
    assert str(token) not in api.get(f"/v1/jobs/{job_id}/attempts").text

    def steps(**params) -> list[tuple[str, int]]:
        found, cursor = [], None
        while True:
            page = api.get(
                f"/v1/jobs/{job_id}/metrics", params=params | ({"cursor": cursor} if cursor else {})
            ).json()
            found += [(item["phase"], item["step"]) for item in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    in_order = [("teach", 3), ("teach", 20), ("distil", 5), ("distil", 10)]
    assert steps() == steps(limit=1) == in_order
    assert steps(phase="distil", after=5) == [("distil", 10)]
    assert api.get(f"/v1/jobs/{job_id}/metrics?after=5").json()["errors"][0]["field"] == "after"


def test_a_failure_says_what_to_do(api, request_body, sessions, run_by_worker):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    token = run_by_worker()
    failure = ends.Failure(
        FailureCause.DIVERGED, "the loss became NaN", "recipe.distil.learning_rate", "use a lower one"
    )
    with sessions.begin() as session:
        ends.fail(session, token, failure)
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "failed"
    assert job["failure"] == {
        "cause": "diverged",
        "detail": "the loss became NaN",
        "field": "recipe.distil.learning_rate",
        "remedy": "use a lower one",
    }
    for part in ("report", "student", "student/files/config.json"):
        answer = api.get(f"/v1/jobs/{job_id}/{part}")
        assert answer.status_code == 404
        assert "failed" in answer.json()["detail"]


def test_the_report_of_a_success_can_be_read(api, request_body, run_by_worker, finish):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    finish(run_by_worker(), {})
    assert api.get(f"/v1/jobs/{job_id}/report").json() == {"student": {"accuracy": 0.93}}


def test_events_are_paged_in_order(api, request_body, sessions, run_by_worker):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    token = run_by_worker()
    with sessions.begin() as session:
        for phase in ("prepare", "teach", "distil"):
            claims.enter_phase(session, token, phase)
    everything = api.get(f"/v1/jobs/{job_id}/events").json()
    assert [event["seq"] for event in everything["items"]] == [1, 2, 3, 4, 5]
    assert everything["next_cursor"] is None
    first = api.get(f"/v1/jobs/{job_id}/events?limit=2").json()
    second = api.get(f"/v1/jobs/{job_id}/events?limit=2&cursor={first['next_cursor']}").json()
    assert first["items"] + second["items"] == everything["items"][:4]
    assert api.get(f"/v1/jobs/{job_id}/events?after=3").json()["items"] == everything["items"][3:]
    assert api.get(f"/v1/jobs/{job_id}/events?after=9999999999999999999").status_code == 422
