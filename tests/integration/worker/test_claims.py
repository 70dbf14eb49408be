"""A worker's right to a job: who gets it, what it may write, and when it has lost it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.db import SessionFactory
from core.jobs import claims, ends, wishes
from core.jobs.claims import Claim, LeaseLostError, Wishes
from core.jobs.ends import CancelledError, Failure
from core.jobs.models import JobEvent, JobMetric
from core.jobs.states import FailureCause, JobStatus
from core.models.models import Model
from core.storage import StoredFile
from mixkd.contract.messages import Metric, Progress
from mixkd.contract.spec import DistilSpec, RuntimeSpec
from tests.support.jobs import Bench

Leave = Callable[[Session, UUID], JobStatus]
Wish = Callable[[Session, str, str], object]
FILES = {"model.safetensors": StoredFile(3, "ab" * 32)}
CRASH = Failure(FailureCause.INTERNAL, "it crashed", exit_code=-11, log_tail="line")


def claim(bench: Bench, worker_id: str, token: UUID | None = None, lease_seconds: float = 30) -> Claim | None:
    with bench.sessions.begin() as session:
        return claims.claim(session, worker_id, token or uuid4(), lease_seconds)


def claimed(bench: Bench, **columns: object) -> Claim:
    bench.submit(**columns)
    mine = claim(bench, bench.worker())
    assert mine is not None
    return mine


def take_away(bench: Bench, mine: Claim) -> None:
    """Let the lease run out and another worker claim the job."""
    with bench.sessions.begin() as session:
        claims.renew(session, mine.token, -1)
        assert ends.expire_leases(session) == [(mine.job_id, JobStatus.QUEUED)]
    assert claim(bench, bench.worker()) is not None


def succeed(bench: Bench, mine: Claim) -> None:
    with bench.sessions.begin() as session:
        ends.succeed(session, mine.token, FILES, {"layers": 1}, {"accuracy": 1.0})


def test_nothing_to_claim(bench: Bench) -> None:
    assert claim(bench, bench.worker()) is None


def test_priority_goes_first_then_age(bench: Bench) -> None:
    old, urgent, new = bench.submit(), bench.submit(priority=90), bench.submit()
    order = [claim(bench, bench.worker()) for _ in range(3)]
    assert [job and job.job_id for job in order] == [urgent, old, new]


def test_a_claim_says_all_that_is_needed_to_run(bench: Bench) -> None:
    mine = claimed(bench, seed=7)
    assert mine.recipe["seed"] == 7
    assert "model.safetensors" in mine.teacher_files
    assert mine.data_files["train"][0] == "train.jsonl"
    job = bench.job(mine.job_id)
    assert (job.status, job.fence, job.lease_token) == ("running", 1, mine.token)
    assert job.started_at is not None
    assert bench.event_types(mine.job_id) == ["queued", "claimed"]


def test_a_claim_whose_answer_was_lost_is_found_again(bench: Bench) -> None:
    bench.submit(), bench.submit()
    worker, token = bench.worker(), uuid4()
    first = claim(bench, worker, token)
    assert first is not None
    with bench.sessions.begin() as session:
        second = claims.claim(session, worker, token, 30, again=True)
    assert first == second
    assert len(bench.attempts(first.job_id)) == 1


def test_many_claimers_never_get_one_job(bench: Bench) -> None:
    jobs = {bench.submit() for _ in range(12)}
    workers = [bench.worker() for _ in range(8)]
    ready = Barrier(len(workers))

    def claim_all(worker_id: str) -> list[str]:
        ready.wait()
        mine = []
        while (job := claim(bench, worker_id)) is not None:
            mine.append(job.job_id)
        return mine

    with ThreadPoolExecutor(len(workers)) as pool:
        got = [job for mine in pool.map(claim_all, workers) for job in mine]
    assert sorted(got) == sorted(jobs)


def test_renewing_brings_back_the_request_to_cancel(bench: Bench, sessions: SessionFactory) -> None:
    mine = claimed(bench)
    with sessions.begin() as session:
        assert claims.renew(session, mine.token, 30) == Wishes(False, False, None, False)
    bench.cancel(mine.job_id)
    with sessions.begin() as session:
        assert claims.renew(session, mine.token, 30) == Wishes(True, False, None, False)


@pytest.mark.parametrize(
    "write",
    [
        lambda session, token: claims.renew(session, token, 30),
        lambda session, token: claims.enter_phase(session, token, "teach"),
        lambda session, token: claims.progress(session, token, Progress(phase="teach", step=1, steps=2)),
        lambda session, token: claims.metrics(
            session, token, [Metric(phase="teach", step=1, values={"loss": 1.0})]
        ),
        lambda session, token: ends.succeed(session, token, FILES, {}, {}),
        lambda session, token: ends.fail(session, token, CRASH),
        lambda session, token: ends.hand_back(session, token, "worker_shutdown"),
        ends.cancelled,
    ],
    ids=["renew", "phase", "progress", "metrics", "succeed", "fail", "hand_back", "cancelled"],
)
def test_a_stolen_lease_refuses_every_write(bench: Bench, sessions: SessionFactory, write: Leave) -> None:
    mine = claimed(bench)
    take_away(bench, mine)
    before = bench.job(mine.job_id), [event.seq for event in bench.events(mine.job_id)]
    with pytest.raises(LeaseLostError), sessions.begin() as session:
        write(session, mine.token)
    now = bench.job(mine.job_id)
    assert (now.status, now.fence, now.phase, now.lease_token) == ("running", 2, None, before[0].lease_token)
    assert [event.seq for event in bench.events(mine.job_id)] == before[1]


def test_a_success_is_recorded_once_even_if_its_answer_was_lost(
    bench: Bench, sessions: SessionFactory
) -> None:
    mine = claimed(bench)
    succeed(bench, mine)
    succeed(bench, mine)
    job = bench.job(mine.job_id)
    assert (job.status, job.report, job.lease_token) == ("succeeded", {"accuracy": 1.0}, None)
    with sessions() as session:
        [student] = session.scalars(select(Model).where(Model.kind == "student"))
    assert student.id == job.student_id
    assert student.files == {"model.safetensors": {"size": 3, "sha256": "ab" * 32}}
    assert student.prefix == f"jobs/{mine.job_id}/1/student"
    assert bench.event_types(mine.job_id) == ["queued", "claimed", "succeeded"]
    assert [attempt.outcome for attempt in bench.attempts(mine.job_id)] == ["succeeded"]


@pytest.mark.parametrize("leave", [partial(ends.hand_back, reason="worker_shutdown"), ends.paused])
@pytest.mark.parametrize(
    ("wish", "after"), [(None, "queued"), (wishes.pause, "paused"), (wishes.cancel, "cancelled")]
)
def test_a_job_that_was_left_is_not_left_twice(
    bench: Bench, leave: Leave, wish: Wish | None, after: str
) -> None:
    """Whatever its user had asked for meanwhile."""
    mine = claimed(bench)
    with bench.sessions.begin() as session:
        if wish is not None:
            wish(session, bench.owner_id, mine.job_id)
    for _ in range(2):
        with bench.sessions.begin() as session:
            assert leave(session, mine.token) == after
    assert bench.event_types(mine.job_id)[-1] != bench.event_types(mine.job_id)[-2]
    assert len(bench.attempts(mine.job_id)) == 1


def test_a_retried_commit_waits_for_the_first_one(bench: Bench, sessions: SessionFactory) -> None:
    """The first commit is still under way when its answer is given up and it is run again."""
    mine = claimed(bench)
    first = sessions()
    ends.succeed(first, mine.token, FILES, {}, {})
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(succeed, bench, mine)
        with sessions() as session:
            while not session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                assert not second.done()
                time.sleep(0.01)
        first.commit()
        second.result(10)
    assert bench.event_types(mine.job_id) == ["queued", "claimed", "succeeded"]


def test_a_request_to_cancel_that_came_first_stops_the_success(
    bench: Bench, sessions: SessionFactory
) -> None:
    mine = claimed(bench)
    bench.cancel(mine.job_id)
    with pytest.raises(CancelledError):
        succeed(bench, mine)
    assert bench.job(mine.job_id).status == "running"
    with sessions.begin() as session:
        ends.cancelled(session, mine.token)
        ends.cancelled(session, mine.token)
    assert bench.event_types(mine.job_id) == ["queued", "claimed", "cancel_requested", "cancelled"]


def test_a_passing_cause_is_tried_again_until_the_limit(bench: Bench, sessions: SessionFactory) -> None:
    job_id = bench.submit(max_attempts=2)
    other = bench.submit()
    for after in (JobStatus.QUEUED, JobStatus.FAILED):
        mine = claim(bench, bench.worker())
        assert mine is not None
        assert mine.job_id == job_id
        with sessions.begin() as session:
            assert ends.fail(session, mine.token, CRASH) is after
        if after is JobStatus.QUEUED:  # it went to the back of the queue
            waited = claim(bench, bench.worker())
            assert waited is not None
            assert waited.job_id == other
    job = bench.job(job_id)
    assert (job.failure_cause, job.charged_failures) == ("internal", 2)
    assert job.failure == {"detail": "it crashed", "field": None, "remedy": None}
    assert bench.event_types(job_id) == ["queued", "claimed", "requeued", "claimed", "failed"]
    [attempt, _] = bench.attempts(job_id)
    assert (attempt.outcome, attempt.cause, attempt.exit_code, attempt.log_tail) == (
        "failed",
        "internal",
        -11,
        "line",
    )


@pytest.mark.parametrize("cause", [FailureCause.DIVERGED, FailureCause.INVALID_INPUT])
def test_a_cause_that_stays_is_final(bench: Bench, sessions: SessionFactory, cause: FailureCause) -> None:
    mine = claimed(bench)
    with sessions.begin() as session:
        assert ends.fail(session, mine.token, Failure(cause, "no")) is JobStatus.FAILED


def test_handing_back_is_not_charged_and_keeps_the_place(bench: Bench, sessions: SessionFactory) -> None:
    mine = claimed(bench)
    bench.submit()
    with sessions.begin() as session:
        ends.hand_back(session, mine.token, "worker_shutdown")
    job = bench.job(mine.job_id)
    assert (job.status, job.charged_failures) == ("queued", 0)
    assert bench.events(mine.job_id)[-1].data == {"attempt": 1, "reason": "worker_shutdown"}
    again = claim(bench, bench.worker())
    assert again is not None
    assert (again.job_id, again.fence) == (mine.job_id, 2)


def test_an_expired_lease_is_charged_and_a_cancel_request_wins(
    bench: Bench, sessions: SessionFactory
) -> None:
    mine = [claimed(bench), claimed(bench), claimed(bench, max_attempts=1), claimed(bench)]
    bench.cancel(mine[1].job_id)
    with sessions.begin() as session:
        for claim_ in mine[:3]:
            claims.renew(session, claim_.token, -1)
        ended = dict(ends.expire_leases(session))
    assert ended == {
        mine[0].job_id: JobStatus.QUEUED,
        mine[1].job_id: JobStatus.CANCELLED,
        mine[2].job_id: JobStatus.FAILED,
    }
    assert bench.job(mine[0].job_id).charged_failures == 1
    assert bench.job(mine[2].job_id).failure_cause == "worker_lost"
    assert [bench.attempts(c.job_id)[0].outcome for c in mine] == ["lost", "lost", "lost", None]


def test_a_phase_is_entered_once_and_clears_the_progress(bench: Bench, sessions: SessionFactory) -> None:
    mine = claimed(bench)
    with sessions.begin() as session:
        claims.enter_phase(session, mine.token, "prepare")
        claims.progress(session, mine.token, Progress(phase="prepare", step=1, steps=2, loss=0.5))
        claims.enter_phase(session, mine.token, "prepare", 2)
    assert (bench.job(mine.job_id).progress or {})["loss"] == 0.5
    with sessions.begin() as session:
        claims.enter_phase(session, mine.token, "teach", 9)
    assert bench.job(mine.job_id).progress is None
    assert bench.phases(mine.job_id) == ["prepare", "teach"]


def test_numbers_of_a_step_are_put_together_and_the_later_stands(
    bench: Bench, sessions: SessionFactory
) -> None:
    mine = claimed(bench)
    for numbers in ([{"loss": 3.0}, {"loss": 2.0, "accuracy": 0.5}], [{"loss": 1.0}]):
        with sessions.begin() as session:
            claims.metrics(session, mine.token, [Metric(phase="distil", step=5, values=n) for n in numbers])
    with sessions() as session:
        [metric] = session.scalars(select(JobMetric))
    assert metric.values == {"loss": 1.0, "accuracy": 0.5}


def test_what_the_first_attempt_chose_is_in_the_next_ones_recipe(bench: Bench) -> None:
    mine = claimed(bench)
    chosen = RuntimeSpec(precision="bf16", attention="sdpa", threads=7)
    with bench.sessions.begin() as session:
        claims.resolved(session, mine.token, chosen)
        ends.fail(session, mine.token, CRASH)
    again = claim(bench, bench.worker())
    assert again is not None
    assert "runtime" not in mine.recipe or mine.recipe["runtime"] != again.recipe["runtime"]
    assert DistilSpec.model_validate(again.recipe).runtime == chosen


def test_a_worker_that_lost_its_job_chooses_nothing_and_notes_nothing(bench: Bench) -> None:
    mine = claimed(bench)
    take_away(bench, mine)
    with pytest.raises(LeaseLostError), bench.sessions.begin() as session:
        claims.resolved(session, mine.token, RuntimeSpec(threads=7))
    with pytest.raises(LeaseLostError), bench.sessions.begin() as session:
        claims.note(session, mine.token, "too late")


def test_a_note_of_the_trainer_is_an_event(bench: Bench) -> None:
    mine = claimed(bench)
    with bench.sessions.begin() as session:
        claims.note(session, mine.token, "out of memory: 16 rows at once from here on")
    with bench.sessions() as session:
        found = session.scalars(select(JobEvent).where(JobEvent.type == "note")).one()
    assert found.data == {"detail": "out of memory: 16 rows at once from here on", "attempt": 1}
