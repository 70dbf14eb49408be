"""A round of the reconciler while a part of the service is away."""

import pytest
from sqlalchemy import text

from core.config import Settings
from core.queue import Queue
from tests.support.jobs import Bench
from worker.reconciler import reconcile


class Away(Queue):
    """A broker that does not answer; finding that out takes seconds each time."""

    def __init__(self) -> None:
        super().__init__("redis+socket:///none")
        self.asked = 0

    def _send(self, task: str, queue: str, *args: object) -> bool:
        self.asked += 1
        return False


def overdue(bench: Bench) -> str:
    """A job that waits past its deadline."""
    job_id = bench.submit()
    with bench.sessions.begin() as session:
        session.execute(
            text("UPDATE jobs SET deadline_seconds = 60, deadline_at = clock_timestamp() - interval '1 s'"
                 " WHERE id = :id"),
            {"id": job_id},
        )  # fmt: skip
    return job_id


def test_a_broker_that_hangs_is_asked_once_a_round(bench: Bench, settings: Settings) -> None:
    """Leases expire in the same thread."""
    for _ in range(3):
        bench.worker()
        bench.submit()
    with bench.sessions.begin() as session:
        session.execute(text("UPDATE models SET status = 'importing', files = NULL, info = NULL"))
    queue = Away()
    reconcile(bench.sessions, queue, settings)
    assert queue.asked == 1


def test_a_step_that_fails_keeps_no_other_from_being_done(
    bench: Bench, settings: Settings, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.reconciler.expire_leases", broken)
    job_id = overdue(bench)
    reconcile(bench.sessions, Queue(broker_url), settings)
    assert bench.job(job_id).failure_cause == "deadline_exceeded"
