"""A job from its claim to its end, with a fake trainer: what is recorded, published, and left behind."""

import itertools
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from core.config import Settings
from core.db import SessionFactory
from core.jobs import ends, wishes
from core.jobs.models import JobMetric
from core.jobs.states import JobStatus
from core.models.models import Model
from core.storage import Storage, StoredFile
from mixkd.contract.folder import inspect_folder
from tests.support.fake_trainer import PHASES, SUCCEED, Scripts
from tests.support.jobs import Bench
from tests.support.running import Running
from tests.support.waiting import alive, until

Start = Callable[..., Running]

HANG: list[list[Any]] = [["leave", "ready"], ["hang"]]


def stored(storage: Storage, job_id: str) -> list[str]:
    return list(storage.keys(f"jobs/{job_id}"))


def test_a_job_succeeds(
    bench: Bench, start: Start, scripts: Scripts, storage: Storage, tmp_path: Path
) -> None:
    scripts.write(
        1,
        ["phase", "teach"],
        ["say", {"type": "progress", "phase": "teach", "step": 1, "steps": 2, "loss": 0.5}],
        ["say", {"type": "metric", "phase": "teach", "step": 1, "values": {"loss": 0.5}}],
        ["phase", "distil"],
        ["say", {"type": "metric", "phase": "distil", "step": 1, "values": {"loss": 0.25}}],
        *SUCCEED[-2:],
    )
    job_id = bench.submit(seed=1)
    start().join()
    job = bench.job(job_id)
    assert (job.status, job.report, job.charged_failures) == ("succeeded", {"accuracy": 1.0}, 0)
    assert bench.event_types(job_id) == ["queued", "claimed", "succeeded"]
    assert bench.phases(job_id) == ["prepare", "teach", "distil", "publish"]
    with bench.sessions() as session:
        student = session.get_one(Model, job.student_id)
        losses = {metric.phase: metric.values for metric in session.scalars(select(JobMetric))}
    assert losses == {"teach": {"loss": 0.5}, "distil": {"loss": 0.25}}
    for path, promised in (student.files or {}).items():
        storage.fetch(f"{student.prefix}/{path}", tmp_path / "student" / path, StoredFile(**promised))
    assert inspect_folder(tmp_path / "student").model_dump(mode="json") == student.info
    assert list((tmp_path / "work").iterdir()) == []


def test_it_works_until_nothing_is_queued(bench: Bench, start: Start) -> None:
    jobs = [bench.submit(seed=seed) for seed in range(3)]
    start().join()
    assert [bench.job(job_id).status for job_id in jobs] == ["succeeded"] * 3


def test_a_diverged_job_fails_and_publishes_nothing(
    bench: Bench, start: Start, scripts: Scripts, storage: Storage, tmp_path: Path
) -> None:
    scripts.write(
        1,
        ["phase", "teach"],
        ["print", "step 7: loss nan"],
        [
            "say",
            {
                "type": "failed",
                "cause": "diverged",
                "detail": "the loss is NaN at step 7",
                "field": "recipe.teach.learning_rate",
                "remedy": "try a smaller one",
            },
        ],
        ["exit", 1],
    )
    job_id = bench.submit(seed=1)
    start().join()
    job = bench.job(job_id)
    assert (job.status, job.failure_cause) == ("failed", "diverged")
    assert job.failure == {
        "detail": "the loss is NaN at step 7",
        "field": "recipe.teach.learning_rate",
        "remedy": "try a smaller one",
    }
    [attempt] = bench.attempts(job_id)
    assert (attempt.outcome, attempt.exit_code, attempt.log_tail) == ("failed", 1, "step 7: loss nan")
    assert stored(storage, job_id) == []
    with bench.sessions() as session:
        assert list(session.scalars(select(Model).where(Model.kind == "student"))) == []
    assert list((tmp_path / "work").iterdir()) == []


def test_a_killed_trainer_is_tried_again(bench: Bench, start: Start, scripts: Scripts) -> None:
    scripts.write(1, ["once", "killed"], ["signal", int(signal.SIGKILL)])
    job_id = bench.submit(seed=1)
    start().join()
    job = bench.job(job_id)
    assert (job.status, job.charged_failures) == ("succeeded", 1)
    assert bench.event_types(job_id) == ["queued", "claimed", "requeued", "claimed", "succeeded"]
    assert [attempt.exit_code for attempt in bench.attempts(job_id)] == [-9, None]


def test_a_crashing_job_gives_up_and_lets_the_others_pass(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    scripts.write(1, ["signal", int(signal.SIGSEGV)])
    poison, good = bench.submit(seed=1), bench.submit(seed=2)
    start().join()
    assert bench.job(good).status == "succeeded"
    job = bench.job(poison)
    assert (job.status, job.failure_cause, job.charged_failures) == ("failed", "internal", 3)


@pytest.mark.parametrize("report", ['{"accuracy": NaN}', "{", "[1"])
def test_a_report_that_is_no_json_is_a_failure_of_ours(
    bench: Bench, start: Start, scripts: Scripts, storage: Storage, report: str
) -> None:
    scripts.write(1, ["student", report], ["say", {"type": "done"}])
    job_id = bench.submit(seed=1, max_attempts=1)
    start().join()
    assert bench.job(job_id).failure_cause == "internal"
    assert stored(storage, job_id) == []


def test_a_damaged_file_is_noticed_before_it_is_used(
    bench: Bench, start: Start, scripts: Scripts, settings: Settings
) -> None:
    path = Path(settings.storage_url.removeprefix("file://"), "models", bench.teacher_id, "model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    job_id = bench.submit(seed=1, max_attempts=2)
    start().join()
    job = bench.job(job_id)
    assert (job.status, job.failure_cause, job.charged_failures) == ("failed", "internal", 2)
    assert "damaged" in (job.failure or {})["detail"]
    assert scripts.started(1) == []


@pytest.mark.parametrize("phase", PHASES)
def test_cancel_in_any_phase_of_the_trainer(
    bench: Bench, start: Start, scripts: Scripts, storage: Storage, phase: str
) -> None:
    scripts.write(1, ["phase", phase], ["ignore SIGTERM"], *HANG)
    job_id = bench.submit(seed=1)
    running = start()
    until(scripts.left("ready").exists)
    bench.cancel(job_id)
    until(lambda: bench.job(job_id).status == "cancelled", 10)
    running.join()
    [pid] = scripts.started(1)
    assert not alive(pid)
    assert bench.event_types(job_id) == ["queued", "claimed", "cancel_requested", "cancelled"]
    assert stored(storage, job_id) == []


class SlowStorage(Storage):
    """Storage that hangs: transfers begin, and end only when the test says so."""

    def __init__(self, url: str, *, hang_at: str) -> None:
        super().__init__(url)
        self._hang_at = hang_at
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def _pass(self, what: str) -> None:
        if what == self._hang_at:
            self.hangs.set()
            self.go_on.wait(60)

    def fetch(self, *args: Any, **options: Any) -> None:
        self._pass("fetch")
        super().fetch(*args, **options)

    def put_file(self, key: str, path: Path) -> StoredFile:
        file = super().put_file(key, path)
        self._pass("put")
        return file


@pytest.mark.parametrize("transfer", ["fetch", "put"])
def test_cancel_while_a_transfer_hangs(
    bench: Bench, start: Start, scripts: Scripts, settings: Settings, transfer: str
) -> None:
    slow = SlowStorage(settings.storage_url, hang_at=transfer)
    job_id = bench.submit(seed=1)
    running = start(storage=slow)
    until(slow.hangs.is_set)
    bench.cancel(job_id)
    until(lambda: bench.job(job_id).status == "cancelled", 10)
    running.join()
    slow.go_on.set()
    until(lambda: stored(slow, job_id) == [], what="the abandoned upload tidies up behind itself")
    assert len(scripts.started(1)) == (transfer == "put")


def test_a_request_to_cancel_that_comes_before_the_commit_wins(
    bench: Bench, start: Start, settings: Settings
) -> None:
    """No heartbeat brings the request in time; the commit itself sees it."""
    slow = SlowStorage(settings.storage_url, hang_at="put")
    job_id = bench.submit(seed=1)
    running = start(storage=slow, every=60, lease_seconds=120)
    until(slow.hangs.is_set)
    bench.cancel(job_id)
    slow.go_on.set()
    running.join()
    assert bench.event_types(job_id) == ["queued", "claimed", "cancel_requested", "cancelled"]
    assert stored(slow, job_id) == []


def test_shutdown_hands_the_job_back_uncharged(bench: Bench, start: Start, scripts: Scripts) -> None:
    scripts.write(1, *HANG)
    job_id = bench.submit(seed=1)
    running = start()
    until(scripts.left("ready").exists)
    running.supervisor.stop()
    running.join(10)
    job = bench.job(job_id)
    assert (job.status, job.charged_failures) == ("queued", 0)
    assert bench.events(job_id)[-1].data == {"attempt": 1, "reason": "worker_shutdown"}
    scripts.write(1, *SUCCEED)
    start().join()
    assert bench.job(job_id).status == "succeeded"


def test_a_stolen_job_is_left_alone(
    bench: Bench, start: Start, scripts: Scripts, sessions: SessionFactory, storage: Storage
) -> None:
    """Frozen past its lease, the first worker wakes beside a second one."""
    scripts.write(1, ["once", "first"], ["wait for", "go on"], *SUCCEED)
    job_id = bench.submit(seed=1)
    frozen = start(every=60, lease_seconds=120)  # no heartbeat tells it
    until(scripts.left("first").exists)
    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
    with sessions.begin() as session:
        assert ends.expire_leases(session) == [(job_id, JobStatus.QUEUED)]
    start().join()
    job = bench.job(job_id)
    assert (job.status, job.fence) == ("succeeded", 2)
    scripts.left("go on").touch()
    frozen.join()
    assert bench.job(job_id).student_id == job.student_id
    assert bench.event_types(job_id) == ["queued", "claimed", "requeued", "claimed", "succeeded"]
    assert {key.split("/")[2] for key in stored(storage, job_id)} == {"2"}


@pytest.mark.parametrize("outage", [False, True])
def test_a_lease_lost_while_it_publishes_leaves_no_files(
    bench: Bench, start: Start, scripts: Scripts, settings: Settings, *, outage: bool
) -> None:
    """The commit notices; after an outage, the writing down of what the trainer said does so before it."""
    flaky = sessionmaker(bench.sessions.kw["bind"], expire_on_commit=False)

    @event.listens_for(flaky, "before_commit")
    def fail(_: Session) -> None:
        if scripts.left("outage").exists():
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    scripts.write(1, *([["leave", "outage"]] if outage else []), *SUCCEED)
    slow = SlowStorage(settings.storage_url, hang_at="put")
    job_id = bench.submit(seed=1)
    running = start(storage=slow, sessions=flaky, every=60, lease_seconds=120)  # no heartbeat tells it
    until(slow.hangs.is_set)
    assert stored(slow, job_id) != []
    scripts.left("outage").unlink(missing_ok=True)
    with bench.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
        ends.expire_leases(session)
        wishes.pause(session, bench.owner_id, job_id)
    slow.go_on.set()
    running.join()
    assert bench.job(job_id).status == "paused"
    assert stored(slow, job_id) == []


def test_the_heartbeat_notices_a_stolen_lease(
    bench: Bench, start: Start, scripts: Scripts, sessions: SessionFactory
) -> None:
    scripts.write(1, *HANG)
    job_id = bench.submit(seed=1)
    running = start()
    until(scripts.left("ready").exists)
    with sessions.begin() as session:  # in one transaction, or the heartbeat comes between
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 s'"))
        ends.expire_leases(session)
        wishes.pause(session, bench.owner_id, job_id)
    running.join()
    [pid] = scripts.started(1)
    assert not alive(pid)
    assert bench.job(job_id).status == "paused"


def test_a_worker_that_cannot_renew_stops_before_its_lease_ends(
    bench: Bench, start: Start, scripts: Scripts, sessions: SessionFactory
) -> None:
    """Its own clock tells it, whatever the database does or does not answer."""
    scripts.write(1, *HANG)
    job_id = bench.submit(seed=1)
    running = start(every=600, lease_seconds=10)
    until(scripts.left("ready").exists)
    [pid] = scripts.started(1)
    until(lambda: not alive(pid))
    with sessions() as session:
        assert session.scalar(text("SELECT lease_expires_at > clock_timestamp() FROM jobs"))
    running.join()
    assert bench.job(job_id).status == "running"


def test_progress_is_seen_while_it_runs(bench: Bench, start: Start, scripts: Scripts) -> None:
    scripts.write(
        1,
        ["phase", "distil"],
        ["say", {"type": "progress", "phase": "distil", "step": 3, "steps": 9, "examples_per_second": 50.0}],
        *HANG,
    )
    job_id = bench.submit(seed=1)
    start()
    progress = until(lambda: bench.job(job_id).progress)
    assert progress["step"] == 3
    assert progress["examples_per_second"] == 50.0


def test_a_second_call_does_nothing_while_the_first_works(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    scripts.write(1, ["leave", "ready"], ["wait for", "go on"], *SUCCEED)
    bench.submit(seed=1)
    other = bench.submit(seed=2)
    running = start()
    until(scripts.left("ready").exists)
    running.supervisor.work()
    assert bench.job(other).status == "queued"
    scripts.left("go on").touch()


def test_commits_whose_answers_are_lost_change_nothing(
    bench: Bench, start: Start, scripts: Scripts, storage: Storage
) -> None:
    """Every other commit happens, and then the connection breaks before the answer."""
    lossy = sessionmaker(bench.sessions.kw["bind"], expire_on_commit=False)
    commits = itertools.count()

    @event.listens_for(lossy, "after_commit")
    def lose(_: Session) -> None:
        if next(commits) % 2 == 0:
            raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    scripts.write(2, ["say", {"type": "failed", "cause": "diverged", "detail": "no"}], ["exit", 1])
    good, bad = bench.submit(seed=1), bench.submit(seed=2)
    start(sessions=lossy).join()
    assert bench.event_types(good) == ["queued", "claimed", "succeeded"]
    assert bench.phases(good) == [*PHASES, "publish"]
    assert bench.event_types(bad) == ["queued", "claimed", "failed"]
    student = bench.job(good).student_id
    with bench.sessions() as session:
        assert list(session.scalars(select(Model.id).where(Model.kind == "student"))) == [student]
    assert f"jobs/{good}/1/manifest.json" in stored(storage, good)


@pytest.mark.parametrize("babble", ["NaN", "Infinity"])
def test_a_number_that_is_none_does_not_end_the_training(
    bench: Bench, start: Start, scripts: Scripts, babble: str
) -> None:
    scripts.write(
        1,
        ["babble", f'{{"type": "metric", "phase": "teach", "step": 1, "values": {{"loss": {babble}}}}}\n'],
        *SUCCEED,
    )
    job_id = bench.submit(seed=1)
    start().join()
    assert bench.job(job_id).status == "succeeded"


def test_what_postgres_cannot_store_does_not_hide_a_failure(
    bench: Bench, start: Start, scripts: Scripts
) -> None:
    scripts.write(1, ["say", {"type": "failed", "cause": "diverged", "detail": "a\0b"}], ["exit", 1])
    job_id = bench.submit(seed=1)
    start().join()
    assert (bench.job(job_id).failure or {})["detail"] == "a\N{REPLACEMENT CHARACTER}b"
