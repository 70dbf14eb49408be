"""What the database refuses by itself, whatever code or operator asks for it."""

import re

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from core.jobs.states import TRANSITIONS, JobStatus, may_follow
from tests.support.jobs import Bench

ADD_EVENT = """
    WITH next AS (UPDATE jobs SET event_seq = event_seq + 1 WHERE id = :id RETURNING event_seq, owner_id)
    INSERT INTO job_events (job_id, seq, owner_id, type, data)
    SELECT :id, event_seq, owner_id, 'moved', '{}' FROM next"""
COLUMNS = {
    "running": "worker_id = :worker, lease_token = gen_random_uuid(), lease_expires_at = now()",
    "failed": "failure_cause = 'internal', finished_at = now()",
    "cancelled": "finished_at = now()",
    "succeeded": "finished_at = now(), student_id = teacher_id, report = '{}'",
}
BARE = """worker_id = NULL, lease_token = NULL, lease_expires_at = NULL, failure_cause = NULL,
    finished_at = NULL, student_id = NULL, report = NULL"""
WAYS = {  # along arrows to every state
    "queued": [], "running": ["running"], "paused": ["paused"], "failed": ["failed"],
    "cancelled": ["cancelled"], "succeeded": ["running", "succeeded"],
}  # fmt: skip


def move(bench: Bench, job_id: str, status: str, *, event: bool = True) -> None:
    """Change a job's state as somebody would who writes SQL by hand."""
    changes = dict(re.findall(r"(\w+) = ([^,]+)", BARE)) | dict(
        re.findall(r"(\w+) = ([^,]+)", COLUMNS.get(status, ""))
    )
    columns = ", ".join(f"{name} = {value.strip()}" for name, value in changes.items())
    with bench.sessions.begin() as session:
        session.execute(
            text(f"UPDATE jobs SET status = '{status}', {columns} WHERE id = :id"),
            {"id": job_id} | ({"worker": bench.worker()} if status == "running" else {}),
        )
        if event:
            session.execute(text(ADD_EVENT), {"id": job_id})


@pytest.mark.parametrize("now", TRANSITIONS)
@pytest.mark.parametrize("after", TRANSITIONS)
def test_only_the_arrows_of_the_table_are_taken(bench: Bench, now: JobStatus, after: JobStatus) -> None:
    job_id = bench.submit()
    for status in WAYS[now]:
        move(bench, job_id, status)
    if may_follow(now, after) or now is after:
        move(bench, job_id, after)
        assert bench.job(job_id).status == after
    else:
        with pytest.raises(IntegrityError, match=f"cannot go from {now} to {after}"):
            move(bench, job_id, after)
        assert bench.job(job_id).status == now


def test_a_job_begins_as_queued(bench: Bench) -> None:
    with pytest.raises(IntegrityError, match="begins as queued"):
        bench.submit(status="paused")


def test_no_state_is_entered_without_an_event(bench: Bench) -> None:
    job_id = bench.submit()
    with pytest.raises(IntegrityError, match="without an event"):
        move(bench, job_id, "paused", event=False)
    assert bench.job(job_id).status == "queued"


def test_a_running_job_has_a_lease(bench: Bench) -> None:
    job_id = bench.submit()
    with (
        pytest.raises(IntegrityError, match="ck_jobs_running_has_lease"),
        bench.sessions.begin() as session,
    ):
        session.execute(text("UPDATE jobs SET status = 'running', lease_expires_at = now(), worker_id = :id"),
                        {"id": bench.worker()})  # fmt: skip
    assert bench.job(job_id).status == "queued"


def test_the_release_before_this_one_can_go_on_writing(bench: Bench) -> None:
    """It knows neither a delay nor a wish, and must not be held up by them."""
    job_id = bench.submit()
    set_column = "UPDATE jobs SET {} = clock_timestamp() WHERE id = :id"
    for columns, status in (
        (["not_before"], "running"),
        (["pause_requested_at", "finish_requested_at"], "succeeded"),
    ):
        with bench.sessions.begin() as session:
            for column in columns:
                session.execute(text(set_column.format(column)), {"id": job_id})
        move(bench, job_id, status)
    job = bench.job(job_id)
    assert (job.not_before, job.pause_requested_at, job.finish_requested_at) == (None, None, None)


def test_a_fence_never_falls(bench: Bench) -> None:
    job_id = bench.submit(fence=3)
    with (
        pytest.raises(IntegrityError, match="fence"),
        bench.sessions.begin() as session,
    ):
        session.execute(text("UPDATE jobs SET fence = 2 WHERE id = :id"), {"id": job_id})


@pytest.mark.parametrize("change", ["UPDATE job_events SET type = 'else'", "DELETE FROM job_events"])
def test_what_happened_is_neither_rewritten_nor_forgotten(bench: Bench, change: str) -> None:
    job_id = bench.submit()
    with pytest.raises(IntegrityError, match="only ever added"), bench.sessions.begin() as session:
        session.execute(text(f"{change} WHERE job_id = :id"), {"id": job_id})
