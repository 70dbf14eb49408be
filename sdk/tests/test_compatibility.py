"""A newer service, or a proxy in front of it, must not break this client."""

import httpx

from mixkd_client import Job, ServerError, Unavailable
from mixkd_client._errors import from_response

JOB = {
    "id": "job_1",
    "name": "n",
    "status": "hibernating",
    "teacher_id": "mdl_1",
    "dataset_id": "ds_1",
    "recipe": {},
    "priority": 50,
    "created_at": "2026-01-02T03:04:05Z",
    "invented_later": {"x": 1},
}


def test_unknown_fields_and_states_are_read() -> None:
    job = Job.model_validate(JOB)
    assert (job.status, job.finished) == ("hibernating", False)


def test_a_proxys_error_page_is_an_error_with_its_status() -> None:
    error = from_response(httpx.Response(503, text="<h1>down</h1>", headers={"content-type": "text/html"}))
    assert isinstance(error, Unavailable)
    assert error.status == 503
    assert "Service Unavailable" in str(error)


def test_json_that_is_no_problem_document_is_an_error_with_its_status() -> None:
    error = from_response(httpx.Response(502, json=["what"]))
    assert isinstance(error, ServerError)
    assert (error.status, error.code) == (502, "internal")


def test_a_problem_without_a_status_gets_the_answers() -> None:
    assert from_response(httpx.Response(418, json={"detail": "a teapot"})).status == 418
