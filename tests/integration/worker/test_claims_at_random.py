"""Any order of two workers, a user, two reconcilers and the clock leaves a history that makes sense."""

import contextlib
from collections.abc import Callable, Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import sampled_from
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.errors import Conflict
from core.jobs import claims, ends, wishes
from core.jobs.claims import LeaseLostError, StoredCheckpoint
from core.jobs.ends import CancelledError, Failure
from core.jobs.models import Job, JobAttempt, JobEvent
from core.jobs.states import FINAL, FailureCause, JobStatus, may_follow
from core.models.models import Model
from core.storage import StoredFile
from tests.support.jobs import Bench

EITHER = sampled_from([0, 1])
ENDS = {
    "succeed": lambda session, token: ends.succeed(session, token, {"f": StoredFile(1, "")}, {}, {}),
    "diverge": lambda session, token: ends.fail(session, token, Failure(FailureCause.DIVERGED, "")),
    "crash": lambda session, token: ends.fail(session, token, Failure(FailureCause.INTERNAL, "")),
    "hand_back": lambda session, token: ends.hand_back(session, token, "worker_shutdown"),
    "cancelled": ends.cancelled,
    "paused": ends.paused,
}
OUTCOMES = {"succeed": "succeeded", "diverge": "failed", "crash": "failed", "hand_back": "handed_back"}
WORK = ("renew", "freeze", "freeze", "freeze", "store", "finish_early")
Wish = Callable[[Session, str, str], object]
WISHES: list[Wish] = [
    wishes.cancel, wishes.pause, wishes.resume, wishes.finish, wishes.retry, wishes.retry,
    lambda session, owner_id, job_id: wishes.prioritise(session, owner_id, job_id, 90),
]  # fmt: skip
MOVES = {
    "queued": JobStatus.QUEUED, "claimed": JobStatus.RUNNING, "requeued": JobStatus.QUEUED,
    "paused": JobStatus.PAUSED, "retried": JobStatus.QUEUED, "succeeded": JobStatus.SUCCEEDED,
    "failed": JobStatus.FAILED, "cancelled": JobStatus.CANCELLED,
}  # fmt: skip


def settled_by(end: str) -> set[str]:
    """The outcomes after which the same end is only repeated."""
    return {*ends.LEFT} if end in ("hand_back", "paused") else {OUTCOMES.get(end, end)}


def machine(bench: Bench) -> type[RuleBasedStateMachine]:
    """The rules, bound to a database."""

    class Service(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.workers = [bench.worker(), bench.worker()]
            self.tokens: list[UUID | None] = [None, None]  # what each worker believes it holds
            self.jobs = [bench.submit(), bench.submit()]
            self.step = 0
            self.stored: dict[str, list[int]] = {}  # steps of each job's checkpoints, the newest first
            self.seen: dict[str, list[str]] = {}  # what had happened to each job by the last look
            self.drain()

        def drain(self) -> None:
            """Jobs of earlier runs are out of the way."""
            with bench.sessions.begin() as session:
                for job in session.scalars(select(Job).where(Job.id.not_in(self.jobs))).all():
                    if job.lease_token is not None:
                        ends.fail(session, job.lease_token, Failure(FailureCause.DIVERGED, ""))
                    elif JobStatus(job.status) not in FINAL:
                        wishes.cancel(session, bench.owner_id, job.id)

        @rule(
            do=sampled_from(["claim"] * 4 + ["work"] * 7 + ["wish"] * 5 + ["deadline"]),
            which=EITHER,
            what=sampled_from([*WORK, *ENDS]),
            again=sampled_from([None, *ENDS]),
            wish=sampled_from(WISHES),
        )
        def go_on(self, do: str, which: int, what: str, again: str | None, wish: Wish) -> None:
            """One rule, not many: Hypothesis leaves some out of each run, and then nothing comes of it."""
            if do == "claim":
                self.claim(which, again is not None)
            elif do == "work" and any(self.tokens):
                self.work(which if self.tokens[which] else 1 - which, what, again)
            elif do == "wish":
                self.wish(wish, which)
            elif do == "deadline":
                self.let_the_deadline_pass(which)

        def claim(self, worker: int, again: bool) -> None:
            """If it is asked again, because the answer was lost, it is the same claim."""
            self.submit()
            token, mine = uuid4(), self.workers[worker]
            with bench.sessions.begin() as session:
                found = claims.claim(session, mine, token, 60)
            if found is None:
                return
            self.tokens[worker] = token
            assert [one.step for one in found.checkpoints] == self.stored.get(found.job_id, [])
            if again:
                with bench.sessions.begin() as session:
                    assert claims.claim(session, mine, token, 60, again=True) == found

        def submit(self) -> None:
            """A job in the place of one that has ended, where nothing is queued."""
            states = {job_id: JobStatus(bench.job(job_id).status) for job_id in self.jobs}
            ended = [job_id for job_id, status in states.items() if status in FINAL]
            if ended and JobStatus.QUEUED not in states.values():
                self.jobs.remove(ended[0])
                self.jobs.append(bench.submit())

        def work(self, worker: int, what: str, again: str | None) -> None:
            """By a worker that believes to hold a job."""
            token = self.tokens[worker]
            assert token is not None
            owns = self.owner_of(token)
            if what in ENDS:
                self.end(worker, token, what, again)
            elif what == "freeze":
                self.freeze(token, owns)
            else:
                with contextlib.nullcontext() if owns else pytest.raises(LeaseLostError):
                    {"renew": self.renew, "store": self.store, "finish_early": self.finish_early}[what](token)

        def renew(self, token: UUID) -> None:
            """It brings back what the row says that the user wants."""
            with bench.sessions.begin() as session:
                asked = claims.renew(session, token, 60)
            with bench.sessions() as session:
                job = session.scalars(select(Job).where(Job.lease_token == token)).one()
            assert asked.cancel == (job.cancel_requested_at is not None)
            assert asked.pause == (job.pause_requested_at is not None)
            assert asked.finish == job.finish_requested_at
            assert asked.overdue == (job.id in self.overdue())

        def freeze(self, token: UUID, owns: str | None) -> None:
            """The lease runs out, and one of two reconcilers notices; the worker does not."""
            if owns:
                with bench.sessions.begin() as session:
                    claims.renew(session, token, -1)
                with bench.sessions.begin() as one, bench.sessions.begin() as other:
                    assert [job_id for job_id, _ in ends.expire_leases(one)] == [owns]
                    assert ends.expire_leases(other) == []

        def store(self, token: UUID) -> None:
            """Three checkpoints, each commit twice, as if its answer had been lost."""
            attempt = self.attempt_of(token)
            for _ in range(3):
                self.step += 1
                new = StoredCheckpoint(attempt=attempt.number, phase="distil", step=self.step, files={})
                for _ in range(2):
                    with bench.sessions.begin() as session:
                        kept = claims.keep_checkpoint(session, token, new)
                before = self.stored.get(attempt.job_id, [])
                self.stored[attempt.job_id] = [self.step, *before][:2]
                assert [one.step for one in kept] == self.stored[attempt.job_id]

        def finish_early(self, token: UUID) -> None:
            """The trainer did as it was asked, if it was."""
            with bench.sessions.begin() as session:
                claims.finishing(session, token)

        def end(self, worker: int, token: UUID, end: str, again: str | None) -> None:
            """Once settled, the same end changes nothing, and another one is refused; leaving is leaving."""
            if not self.commit(token, end):
                return  # it is to be cancelled, and still ours
            self.tokens[worker] = None
            if again is not None:
                self.commit(token, again)

        def commit(self, token: UUID, end: str) -> bool:
            """Whether the attempt is settled."""
            owns, outcome = self.owner_of(token), self.attempt_of(token).outcome
            try:
                with bench.sessions.begin() as session:
                    ENDS[end](session, token)
            except LeaseLostError:
                assert not owns
                assert outcome not in settled_by(end)
            except CancelledError:
                assert end == "succeed"
                assert owns
                return False
            else:
                assert owns or outcome in settled_by(end)
            return True

        def wish(self, wish: Wish, number: int) -> None:
            with contextlib.suppress(Conflict), bench.sessions.begin() as session:
                wish(session, bench.owner_id, self.jobs[number])

        def let_the_deadline_pass(self, number: int) -> None:
            """One of two reconcilers ends what waits; what runs is its worker's to end."""
            with bench.sessions.begin() as session:
                job = session.get_one(Job, self.jobs[number])
                job.deadline_seconds, job.deadline_at = 60, func.clock_timestamp()
            late = {job_id for job_id in self.overdue() if bench.job(job_id).status in ("queued", "paused")}
            with bench.sessions.begin() as one, bench.sessions.begin() as other:
                assert set(ends.fail_overdue(one)) == late
                assert ends.fail_overdue(other) == []
            assert {bench.job(job_id).failure_cause for job_id in late} <= {"deadline_exceeded"}

        def owner_of(self, token: UUID) -> str | None:
            """The job that a token is worth."""
            with bench.sessions() as session:
                return session.scalar(select(Job.id).where(Job.lease_token == token))

        def attempt_of(self, token: UUID) -> JobAttempt:
            with bench.sessions() as session:
                return session.scalars(select(JobAttempt).where(JobAttempt.lease_token == token)).one()

        def overdue(self) -> list[str]:
            """Our jobs past their deadline, whatever their state."""
            with bench.sessions() as session:
                late = Job.deadline_at <= func.clock_timestamp()
                return list(session.scalars(select(Job.id).where(late, Job.id.in_(self.jobs))))

        @invariant()
        def history_makes_sense(self) -> None:
            with bench.sessions() as session:
                for job_id in getattr(self, "jobs", []):
                    self.seen[job_id] = check(session, job_id, self.seen.get(job_id, []))

    return Service


def check(session: Session, job_id: str, seen: list[str]) -> list[str]:
    """Whether a job's rows fit each other; the types of its events."""
    job = session.get_one(Job, job_id)
    events = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)).all()
    attempts = session.scalars(
        select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.number)
    ).all()
    students = session.scalars(
        select(Model.id).where(Model.kind == "student", Model.prefix.startswith(f"jobs/{job_id}/"))
    ).all()
    types = [event.type for event in events]
    assert types[: len(seen)] == seen, "what has happened stays"
    assert told(types) == job.status
    assert [event.seq for event in events] == list(range(1, job.event_seq + 1))
    assert [attempt.number for attempt in attempts] == list(range(1, job.fence + 1))
    running, final = job.status == "running", JobStatus(job.status) in FINAL
    assert [attempt.outcome for attempt in attempts].count(None) == running
    assert (job.lease_token is not None) == running
    assert job.pause_requested_at is None or running
    assert job.finish_requested_at is None or not final
    assert job.charged_failures == charged(events, attempts) <= job.max_attempts
    assert all(1 <= one["attempt"] <= job.fence for one in job.checkpoints)
    assert types.count("succeeded") == len(students) <= 1
    this_try = types[last(types, "retried") :]
    if "cancel_requested" in this_try:
        after = this_try[last(this_try, "cancel_requested") :]
        assert set(after) <= {"cancelled", "checkpoint", "finished_early"}, "it goes nowhere else"
    return types


def last(types: list[str], word: str) -> int:
    """The place after the last of that type; 0 if there is none."""
    return len(types) - types[::-1].index(word) if word in types else 0


def told(types: list[str]) -> JobStatus | None:
    """The state that a history leads to. Each step of it is an arrow of the table."""
    now: JobStatus | None = None
    for event in types:
        after = MOVES.get(event)
        if event == "resumed" and now == JobStatus.PAUSED:
            after = JobStatus.QUEUED
        if after is not None:
            assert now is None or may_follow(now, after), types
            now = after
    return now


def charged(events: Sequence[JobEvent], attempts: Sequence[JobAttempt]) -> int:
    """The failures since the user's last retry. One that ended as the user cancelled does not count."""
    types = [event.type for event in events]
    earlier = types[: last(types, "retried")].count("claimed")
    failures = [attempt.number for attempt in attempts[earlier:] if attempt.outcome in {"failed", "lost"}]
    in_vain = types[-1] == "cancelled" and events[-1].data.get("attempt") in failures
    return len(failures) - in_vain


@pytest.mark.timeout(240)
def test_any_order_of_events_leaves_a_history_that_makes_sense(bench: Bench) -> None:
    run_state_machine_as_test(
        machine(bench),
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
