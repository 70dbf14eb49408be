"""What ends an attempt from outside besides a cancel: deadlines, silence, pauses, storage that is away."""

import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings
from core.jobs import claims, wishes
from core.jobs.claims import Claim
from core.storage import Storage, StoredFile
from core.workers.models import Worker
from tests.support.fake_trainer import Scripts
from tests.support.jobs import Bench
from tests.support.running import Running
from tests.support.waiting import alive, until

Start = Callable[..., Running]
HANG = [["phase", "distil"], ["leave", "ready"], ["hang"]]


def move_deadline(bench: Bench, job_id: str) -> None:
    """Let a job's deadline have passed a second ago."""
    with bench.sessions.begin() as session:
        session.execute(
            text("UPDATE jobs SET deadline_seconds = 60, deadline_at = clock_timestamp() - interval '1 s'"
                 " WHERE id = :id"),
            {"id": job_id},
        )  # fmt: skip


def test_a_running_job_ends_at_its_deadline(bench: Bench, start: Start, scripts: Scripts) -> None:
    scripts.write(1, ["print", "the last words"], *HANG)
    job_id = bench.submit(seed=1)
    running = start()
    until(scripts.left("ready").exists)
    move_deadline(bench, job_id)
    running.join(20)
    job, [attempt] = bench.job(job_id), bench.attempts(job_id)
    assert (job.status, job.failure_cause) == ("failed", "deadline_exceeded")
    assert "retry" in (job.failure or {})["remedy"]
    assert "the last words" in (attempt.log_tail or "")
    assert not alive(scripts.started(1)[0])


def test_a_trainer_that_falls_silent_is_ended_and_says_where_it_was(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    scripts.write(1, ["once", "first"], *HANG)
    job_id = bench.submit(seed=1)
    start(silence_seconds=1.0).join(30)
    job, attempts = bench.job(job_id), bench.attempts(job_id)
    assert (job.status, job.charged_failures) == ("succeeded", 1)
    assert [(one.outcome, one.cause) for one in attempts] == [("failed", "internal"), ("succeeded", None)]
    assert attempts[0].exit_code == -signal.SIGABRT
    assert "fake_trainer.py" in (attempts[0].log_tail or ""), "faulthandler shows the stack"


def test_a_job_is_paused_and_goes_on_when_it_is_resumed(bench: Bench, start: Start, scripts: Scripts) -> None:
    scripts.write(1, ["once", "first"], *HANG)
    job_id = bench.submit(seed=1)
    running = start()
    until(scripts.left("ready").exists)
    with bench.sessions.begin() as session:
        wishes.pause(session, bench.owner_id, job_id)
    running.join(20)
    job = bench.job(job_id)
    assert (job.status, job.charged_failures, job.pause_requested_at) == ("paused", 0, None)
    start().join(20)
    assert bench.job(job_id).status == "paused", "nobody claims it"
    with bench.sessions.begin() as session:
        wishes.resume(session, bench.owner_id, job_id)
    start().join(30)
    assert bench.job(job_id).status == "succeeded"
    assert [one.outcome for one in bench.attempts(job_id)] == ["paused", "succeeded"]


def test_a_pause_that_is_taken_back_too_late_only_costs_a_turn(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    scripts.write(1, ["once", "first"], ["ignore SIGTERM"], *HANG)
    job_id = bench.submit(seed=1)
    running = start(every=0.05)
    until(scripts.left("ready").exists)
    with bench.sessions.begin() as session:
        wishes.pause(session, bench.owner_id, job_id)
    beats = renewals(bench)
    until(lambda: renewals(bench) > beats + 1, what="the worker knows")
    with bench.sessions.begin() as session:
        wishes.resume(session, bench.owner_id, job_id)
    os.kill(scripts.started(1)[0], signal.SIGKILL)  # or its grace would be a minute
    running.join(30)
    assert bench.job(job_id).status == "succeeded"
    assert [one.outcome for one in bench.attempts(job_id)] == ["handed_back", "succeeded"]


def test_a_worker_that_must_stop_does_not_wait_for_a_pause(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    """A pause gives the step under way a minute; the watchdog of a shutdown ends the worker before."""
    scripts.write(1, ["ignore SIGTERM"], *HANG)
    job_id = bench.submit(seed=1)
    running = start(every=0.05)
    until(scripts.left("ready").exists)
    with bench.sessions.begin() as session:
        wishes.pause(session, bench.owner_id, job_id)
    beats = renewals(bench)
    until(lambda: renewals(bench) > beats + 1, what="the worker knows")
    running.supervisor.stop()
    running.join(6)
    job = bench.job(job_id)
    assert (job.status, job.charged_failures) == ("paused", 0)


def renewals(bench: Bench) -> int:
    with bench.sessions() as session:
        return sum(session.scalars(select(Worker.renewals)))


@pytest.mark.parametrize("transfer", ["fetch", "put_file"])
def test_storage_that_is_away_for_a_while_costs_no_attempt(
    bench: Bench, start: Start, settings: Settings, transfer: str
) -> None:
    calls: list[str] = []

    class Away(Storage):
        def fetch(self, *arguments: object) -> None:  # type: ignore[override]  # it only counts
            self._fail_at_first("fetch")
            super().fetch(*arguments)  # type: ignore[arg-type]  # as it was called

        def put_file(self, key: str, path: Path) -> StoredFile:
            self._fail_at_first("put_file")
            return super().put_file(key, path)

        def _fail_at_first(self, name: str) -> None:
            calls.append(name)
            if name == transfer and calls.count(name) == 1:
                raise OSError("storage is away")

    job_id = bench.submit(seed=1)
    start(storage=Away(settings.storage_url)).join(30)
    assert bench.job(job_id).status == "succeeded"
    assert len(bench.attempts(job_id)) == 1


def test_a_volume_that_is_not_mounted_is_waited_for(bench: Bench, start: Start, settings: Settings) -> None:
    """What shows in its place is an empty folder: no file of the job is gone."""
    root = Path(settings.storage_url.removeprefix("file://"))
    volume = root.with_name("volume")
    root.rename(volume)
    root.mkdir()
    job_id = bench.submit(seed=1)
    running = start()
    Timer(1.5, lambda: (root.rmdir(), volume.rename(root))).start()
    running.join(30)
    assert bench.job(job_id).status == "succeeded"
    assert [one.outcome for one in bench.attempts(job_id)] == ["succeeded"]


def test_storage_that_stays_away_fails_the_attempt(bench: Bench, start: Start, settings: Settings) -> None:
    class Gone(Storage):
        def fetch(self, *_: object) -> None:  # type: ignore[override]  # it is gone whatever is asked
            raise OSError("/a/path/of/ours is away")

    job_id = bench.submit(seed=1, max_attempts=1)
    start(storage=Gone(settings.storage_url), storage_patience_seconds=0.5).join(30)
    job = bench.job(job_id)
    assert (job.status, job.failure_cause) == ("failed", "internal")
    assert "storage" in (job.failure or {})["detail"]
    assert "/a/path" not in str(job.failure)


def test_a_claim_is_asked_for_until_its_answer_comes(bench: Bench, start: Start) -> None:
    """Else the job would be nobody's until the lease ends, and be charged for it."""
    deaf = sessionmaker(bench.sessions.kw["bind"], expire_on_commit=False)
    answers = itertools.count()

    @event.listens_for(deaf, "after_commit")
    def lose(_: Session) -> None:
        if next(answers) < 6:
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    job_id = bench.submit(seed=1)
    start(sessions=deaf).join(30)
    assert next(answers) > 6
    assert [one.outcome for one in bench.attempts(job_id)] == ["succeeded"]


def test_a_claim_whose_commit_is_still_under_way_is_not_made_twice(
    bench: Bench, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection dropped, and the server has not noticed."""
    under_way: list[Session] = []
    real = claims.claim

    def drop_once(session: Session, *arguments: Any, **options: Any) -> Claim | None:
        if under_way:
            return real(session, *arguments, **options)
        under_way.append(bench.sessions())
        real(under_way[0], *arguments, **options)
        Timer(1, under_way[0].commit).start()
        raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(claims, "claim", drop_once)
    jobs = [bench.submit(seed=1), bench.submit(seed=2)]
    start().join(30)
    outcomes = [[one.outcome for one in bench.attempts(job_id)] for job_id in jobs]
    under_way[0].close()
    assert outcomes == [["succeeded"], ["succeeded"]]


def test_a_job_is_not_tried_again_at_once(bench: Bench, start: Start, scripts: Scripts) -> None:
    step = {"type": "progress", "phase": "distil", "step": 1, "steps": 9}
    scripts.write(1, ["phase", "distil"], ["say", step], ["signal", int(signal.SIGSEGV)])
    job_id, other = bench.submit(seed=1), bench.submit(seed=2)
    start(retry_seconds=600.0).join(30)
    job = bench.job(job_id)
    assert (job.status, job.charged_failures, len(scripts.started(1))) == ("queued", 1, 1)
    assert job.not_before is not None
    assert bench.job(other).status == "succeeded"


def test_a_worker_that_may_be_broken_leaves_the_queue_to_others(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    """No attempt of its own got as far as a step; it is idle first each time."""
    scripts.write(1, ["signal", int(signal.SIGSEGV)])
    failed, other = bench.submit(seed=1, max_attempts=1), bench.submit(seed=2)
    broken = start(retry_seconds=600.0)
    until(lambda: bench.job(failed).status == "failed")
    with pytest.raises(AssertionError):
        broken.join(1)
    assert bench.job(other).status == "queued"
    start().join(30)
    assert bench.job(other).status == "succeeded"
    broken.supervisor.stop()
    broken.join(5)
