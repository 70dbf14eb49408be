"""What Prometheus is told: what the documentation promises, and what the tables say."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from api.main import create_app
from core.db import connect, session_factory
from core.jobs import claims, ends
from core.jobs.ends import Failure
from core.jobs.states import FailureCause


@pytest.fixture
def scrape(client_of):
    """Ask as Prometheus does: without a key."""

    def ask() -> dict[tuple[str, ...], float]:
        answer = client_of(None).get("/metrics")
        assert answer.status_code == 200
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    return ask


def test_jobs_and_the_queue(api, request_body, scrape, sessions):
    for device in ("any", "gpu", "gpu"):
        api.post("/v1/jobs", json=request_body | {"resources": {"device": device}})
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET queued_at = clock_timestamp() - interval '100 s'"))
    found = scrape()
    assert (found["mixkd_jobs", "queued"], found["mixkd_jobs", "running"]) == (3, 0)
    assert (found["mixkd_queue_depth", "gpu"], found["mixkd_queue_depth", "cpu"]) == (2, 0)
    assert 100 <= found["mixkd_queue_oldest_seconds", "any"] < 160
    assert found["mixkd_queue_oldest_seconds", "cpu"] == 0


def test_attempts_phases_leases_and_workers(api, request_body, scrape, sessions, run_by_worker):
    api.post("/v1/jobs", json=request_body)
    token = run_by_worker()
    assert scrape()["mixkd_workers", "cpu", "busy"] == 1
    with sessions.begin() as session:
        claims.enter_phase(session, token, "prepare")
        session.execute(text("UPDATE jobs SET phase_started_at = clock_timestamp() - interval '10 s'"))
    with sessions.begin() as session:
        claims.enter_phase(session, token, "distil")
        session.execute(text("UPDATE jobs SET phase_started_at = clock_timestamp() - interval '20 s'"))
        session.execute(text("UPDATE workers SET renewals = 7"))
    with sessions.begin() as session:
        ends.fail(session, token, Failure(FailureCause.DIVERGED, "NaN"))
    found = scrape()
    assert found["mixkd_attempts_total", "diverged", "failed"] == 1
    assert 10 <= found["mixkd_phase_seconds_total", "prepare"] < 15
    assert 20 <= found["mixkd_phase_seconds_total", "distil"] < 25
    assert found["mixkd_phases_total", "distil"] == 1
    assert found["mixkd_workers", "cpu", "idle"] == 1
    assert found["mixkd_lease_renewals_total",] == 7


def test_a_lost_lease_and_what_gpus_do(api, request_body, scrape, sessions, run_by_worker):
    api.post("/v1/jobs", json=request_body)
    run_by_worker()
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
        session.execute(
            text("""UPDATE workers SET gpus = 1, hostname = 'box',
            gpu_use = '[{"busy": 0.5, "used": 10, "total": 80}]'""")
        )
    assert scrape()["mixkd_leases_expired",] == 1
    with sessions.begin() as session:
        ends.expire_leases(session)
    found = scrape()
    assert found["mixkd_leases_expired",] == 0
    assert found["mixkd_leases_lost_total",] == 1
    assert found["mixkd_gpu_busy_ratio", "0", "box"] == 0.5
    assert found["mixkd_gpu_memory_bytes", "0", "box"] == 80


def test_the_age_of_checkpoints(api, request_body, scrape, sessions, run_by_worker):
    assert scrape()["mixkd_checkpoint_oldest_seconds",] == 0, "nothing runs"
    api.post("/v1/jobs", json=request_body)
    token = run_by_worker()
    with sessions.begin() as session:
        session.execute(text("UPDATE job_attempts SET started_at = clock_timestamp() - interval '500 s'"))
    assert 500 <= scrape()["mixkd_checkpoint_oldest_seconds",] < 560, "none yet"
    for step in (5, 10):
        stored = claims.StoredCheckpoint(attempt=1, phase="distil", step=step, files={})
        with sessions.begin() as session:
            claims.keep_checkpoint(session, token, stored)
    assert scrape()["mixkd_checkpoint_oldest_seconds",] < 60


def test_without_a_database_it_is_a_problem_and_no_half_page(settings):
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        good, client.app.state.sessions = client.app.state.sessions, session_factory(nowhere(settings))
        answer = client.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["content-type"] == "application/problem+json"
        client.app.state.sessions = good
        assert client.get("/metrics").status_code == 200


def nowhere(settings):
    return connect(
        settings.model_copy(update={"database_url": SecretStr("postgresql+psycopg:///?host=/none")})
    )


def test_the_page_names_what_is_told_and_nothing_else(client_of):
    page = Path("docs/how-to/monitor.md").read_text()
    told = client_of(None).get("/metrics").text
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == {
        f"{name}_total" if kind == "counter" and not name.endswith("_total") else name
        for name, kind in re.findall(r"^# TYPE (\w+) (\w+)", told, re.M)
    }
