"""Any order of two workers, a user and a reconciler leaves a history that makes sense."""

import contextlib
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from hypothesis.strategies import sampled_from
from sqlalchemy import func, select

from core.errors import Conflict
from core.jobs import claims, ends, wishes
from core.jobs.claims import LeaseLostError, StoredCheckpoint
from core.jobs.ends import CancelledError, Failure
from core.jobs.models import Job, JobAttempt
from core.jobs.states import FINAL, FailureCause, JobStatus, may_follow
from core.models.models import Model
from core.storage import StoredFile
from tests.support.jobs import Bench

WORKERS = sampled_from([0, 1])
ENDS = {
    "succeed": lambda session, token: ends.succeed(session, token, {"f": StoredFile(1, "")}, {}, {}),
    "diverge": lambda session, token: ends.fail(session, token, Failure(FailureCause.DIVERGED, "")),
    "crash": lambda session, token: ends.fail(session, token, Failure(FailureCause.INTERNAL, "")),
    "hand_back": lambda session, token: ends.hand_back(session, token, "worker_shutdown"),
    "cancelled": ends.cancelled,
    "paused": ends.paused,
}
WISHES = {
    "pause": wishes.pause, "resume": wishes.resume, "finish": wishes.finish, "retry": wishes.retry,
    "prioritise": lambda session, owner, job: wishes.prioritise(session, owner, job, 90),
}  # fmt: skip


def machine(bench: Bench) -> type[RuleBasedStateMachine]:
    """The rules, bound to a database."""

    class Service(RuleBasedStateMachine):
        @initialize()
        def start(self) -> None:
            self.workers = [bench.worker(), bench.worker()]
            self.tokens: list[UUID | None] = [None, None]  # what each worker believes it holds
            self.jobs = [bench.submit(), bench.submit()]
            self.step = 0
            self.seen: dict[str, tuple[JobStatus, int, int]] = {}
            self.drain()

        def drain(self) -> None:
            """Jobs of earlier runs are out of the way."""
            with bench.sessions.begin() as session:
                for job in session.scalars(select(Job).where(Job.status == "queued")):
                    if job.id not in self.jobs:
                        claims.transition(
                            session, job.id, JobStatus.QUEUED, JobStatus.CANCELLED, event="cancelled"
                        )
                for job in session.scalars(select(Job).where(Job.status == "running")):
                    assert job.lease_token is not None
                    ends.cancelled(session, job.lease_token)

        @rule(worker=WORKERS)
        def claim(self, worker: int) -> None:
            token = uuid4()
            with bench.sessions.begin() as session:
                if claims.claim(session, self.workers[worker], token, 60) is not None:
                    self.tokens[worker] = token

        @rule(worker=WORKERS)
        def renew(self, worker: int) -> None:
            if (token := self.tokens[worker]) is not None:
                with bench.sessions.begin() as session:
                    try:
                        claims.renew(session, token, 60)
                    except LeaseLostError:
                        self.tokens[worker] = None

        @rule(worker=WORKERS)
        def let_the_lease_run_out(self, worker: int) -> None:
            """The worker still believes that it holds the job: it is frozen."""
            if (token := self.tokens[worker]) is not None:
                with bench.sessions.begin() as session:
                    job = session.scalars(select(Job).where(Job.lease_token == token)).one_or_none()
                    if job is not None:
                        claims.renew(session, token, -1)
                        ends.expire_leases(session)

        @rule(
            worker=WORKERS, end=sampled_from(["succeed", "succeed", *ENDS]), again=sampled_from([False, True])
        )
        def end(self, worker: int, end: str, again: bool) -> None:
            if (token := self.tokens[worker]) is None:
                return
            for _ in range(2 if again else 1):
                owns = self.owner_of(token)
                try:
                    with bench.sessions.begin() as session:
                        ENDS[end](session, token)
                except LeaseLostError:
                    assert not owns
                except CancelledError:
                    assert end == "succeed"
                    assert owns
                    return  # it is to be cancelled, and still ours
            self.tokens[worker] = None

        @rule(worker=WORKERS)
        def cancel(self, worker: int) -> None:
            """The user cancels what a worker is at, or the job that waits longest."""
            job_id = self.owner_of(self.tokens[worker]) or self.jobs[0]
            bench.cancel(job_id)

        @rule(wish=sampled_from([*WISHES]), number=sampled_from([0, 1]))
        def wish(self, wish: str, number: int) -> None:
            with contextlib.suppress(Conflict), bench.sessions.begin() as session:
                WISHES[wish](session, bench.owner_id, self.jobs[number])

        @rule(number=sampled_from([0, 1]))
        def let_the_deadline_pass(self, number: int) -> None:
            """A waiting job ends by it; a running one is ended by its worker; the others stay."""
            with bench.sessions.begin() as session:
                job = session.get_one(Job, self.jobs[number])
                job.deadline_seconds, job.deadline_at = 60, func.clock_timestamp()
                status = job.status
            with bench.sessions.begin() as session:
                ended = ends.fail_overdue(session)
            assert (self.jobs[number] in ended) == (status in ("queued", "paused"))
            with bench.sessions.begin() as session:
                job = session.get_one(Job, self.jobs[number])
                job.deadline_seconds = job.deadline_at = None

        @rule(worker=WORKERS)
        def store_a_checkpoint(self, worker: int) -> None:
            if (token := self.tokens[worker]) is None:
                return
            owns = self.owner_of(token)
            self.step += 1
            with bench.sessions.begin() as session:
                attempt = (
                    session.scalar(select(JobAttempt.number).where(JobAttempt.lease_token == token)) or 0
                )
                new = StoredCheckpoint(attempt=attempt, phase="distil", step=self.step, files={})
                try:
                    assert claims.keep_checkpoint(session, token, new)[0] == new
                except LeaseLostError:
                    assert not owns
                else:
                    assert owns

        @rule(worker=WORKERS)
        def finish_early(self, worker: int) -> None:
            """The trainer did as it was asked, if it was."""
            if (token := self.tokens[worker]) is not None and self.owner_of(token):
                with bench.sessions.begin() as session:
                    claims.finishing(session, token)

        @rule()
        def submit(self) -> None:
            """Something to do, once a job has come to its end."""
            for job_id in self.jobs:
                if JobStatus(bench.job(job_id).status) in FINAL:
                    self.jobs.remove(job_id)
                    self.jobs.append(bench.submit())
                    return

        def owner_of(self, token: UUID | None) -> str | None:
            """The job that a token is worth."""
            with bench.sessions() as session:
                return session.scalar(select(Job.id).where(Job.lease_token == token)) if token else None

        @invariant()
        def history_makes_sense(self) -> None:
            for job_id in getattr(self, "jobs", []):
                self.check(job_id)

        def check(self, job_id: str) -> None:
            job, events, attempts = bench.job(job_id), bench.events(job_id), bench.attempts(job_id)
            assert [event.seq for event in events] == list(range(1, len(events) + 1))
            assert job.event_seq == len(events)
            assert [attempt.number for attempt in attempts] == list(range(1, job.fence + 1))
            running = [attempt for attempt in attempts if attempt.outcome is None]
            assert len(running) == (job.status == "running")
            types = [event.type for event in events]
            retried = types.count("retried")
            charged = sum(attempt.outcome in {"failed", "lost"} for attempt in attempts)
            assert job.charged_failures <= charged <= job.max_attempts * (1 + retried)
            assert sum(word in {"succeeded", "failed", "cancelled"} for word in types) == retried + (
                JobStatus(job.status) in FINAL
            )
            assert len(job.checkpoints) <= 2
            assert all(1 <= one["attempt"] <= job.fence for one in job.checkpoints)
            assert job.checkpoints == sorted(job.checkpoints, key=lambda one: -one["step"])
            assert job.pause_requested_at is None or job.status == "running"
            assert types.count("succeeded") == len(students(bench, job_id)) <= 1
            if "cancel_requested" in types:
                after = types[len(types) - types[::-1].index("cancel_requested") :]
                after = after[: after.index("retried")] if "retried" in after else after
                assert set(after) <= {"cancelled", "checkpoint", "finished_early"}, (
                    "it neither goes on nor succeeds"
                )
            status = JobStatus(job.status)
            if job_id in self.seen:
                before, seq, _ = self.seen[job_id]
                assert status == before or seq < len(events)
                assert len(events) - seq > 1 or status == before or may_follow(before, status)
            self.seen[job_id] = status, len(events), job.fence

    return Service


def students(bench: Bench, job_id: str) -> list[str]:
    with bench.sessions() as session:
        query = select(Model.id).where(Model.kind == "student", Model.prefix.startswith(f"jobs/{job_id}/"))
        return list(session.scalars(query))


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
