"""Workers as an operator runs them: real Celery processes on the real broker."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from core import embedded
from core.config import Settings
from core.datasets.models import Dataset
from core.queue import Queue
from tests.support.fake_trainer import SUCCEED, Scripts
from tests.support.jobs import Bench
from tests.support.waiting import alive, until

Worker = subprocess.Popen[bytes]
StartWorker = Callable[..., Worker]

ROOT = Path(__file__).parents[3]
QUICK = {
    "MIXKD_LEASE_SECONDS": "60",  # a heartbeat that starves on a busy machine must not lose it
    "MIXKD_HEARTBEAT_SECONDS": "0.3",
    "MIXKD_RECONCILE_SECONDS": "0.5",
    "MIXKD_CANCEL_GRACE_SECONDS": "2",
    "MIXKD_RETRY_SECONDS": "0",
}


@pytest.fixture
def start_worker(bench: Bench, settings: Settings, scripts: Scripts, tmp_path: Path) -> Iterator[StartWorker]:
    """Start worker processes; `start_worker("--control")` for the one that reconciles."""
    started: list[Worker] = []

    def make(*arguments: str, **environment: str) -> Worker:
        ours = {
            "MIXKD_DATABASE_URL": settings.database_url.get_secret_value(),
            "MIXKD_BROKER_URL": settings.broker_url.get_secret_value(),
            "MIXKD_STORAGE_URL": settings.storage_url,
            "MIXKD_WORK_DIR": str(tmp_path / "work"),
        }
        log = tmp_path / f"worker-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fake_worker", str(scripts.folder), *arguments],
                cwd=ROOT,
                env=os.environ | QUICK | ours | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        until(lambda: b" ready." in log.read_bytes() or process.poll() is not None)
        return process

    yield make
    for process in started:
        process.kill()
        process.wait()
    for number in range(len(started)):  # shown by pytest when the test has failed
        print((tmp_path / f"worker-{number}.log").read_text()[-5000:])


def ended(process: Worker) -> int:
    """The exit status of a worker that was asked to stop: ten seconds are promised."""
    return process.wait(10)


def status(bench: Bench, job_id: str, wanted: str, seconds: float = 60) -> None:
    until(lambda: bench.job(job_id).status == wanted, seconds, f"{job_id} {wanted}")


def test_a_message_wakes_an_idle_worker(bench: Bench, start_worker: StartWorker, broker_url: str) -> None:
    first = bench.submit(seed=1)
    start_worker()
    status(bench, first, "succeeded")  # it looked for work by itself
    second = bench.submit(seed=2)
    Queue(broker_url).wake("cpu")
    status(bench, second, "succeeded")


def test_a_doubled_message_runs_a_job_once(
    bench: Bench, start_worker: StartWorker, broker_url: str, scripts: Scripts
) -> None:
    queue = Queue(broker_url)
    start_worker(), start_worker()
    job_id = bench.submit(seed=1)
    for _ in range(5):
        queue.wake("cpu")
    status(bench, job_id, "succeeded")
    with redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://")) as broker:
        until(lambda: broker.llen("jobs.cpu") == 0)
    assert len(scripts.started(1)) == 1
    assert bench.job(job_id).fence == 1


def test_sigterm_hands_the_job_back(
    bench: Bench, start_worker: StartWorker, scripts: Scripts, tmp_path: Path
) -> None:
    scripts.write(1, ["leave", "ready"], ["hang"])
    job_id = bench.submit(seed=1)
    worker = start_worker()
    until(scripts.left("ready").exists)
    worker.terminate()
    assert ended(worker) == 0
    assert not alive(scripts.started(1)[0])
    job = bench.job(job_id)
    assert (job.status, job.charged_failures) == ("queued", 0)
    assert bench.events(job_id)[-1].data["reason"] == "worker_shutdown"
    assert list((tmp_path / "work").iterdir()) == []
    scripts.write(1, *SUCCEED)
    start_worker()
    status(bench, job_id, "succeeded")


def test_sigterm_ends_an_idle_worker_at_once(bench: Bench, start_worker: StartWorker) -> None:
    workers = [start_worker(), start_worker("--control")]
    job_id = bench.submit(seed=1)
    status(bench, job_id, "succeeded")
    for worker in workers:
        worker.terminate()
    assert [ended(worker) for worker in workers] == [0, 0]


def test_a_killed_workers_job_is_finished_by_another(
    bench: Bench, start_worker: StartWorker, scripts: Scripts, tmp_path: Path
) -> None:
    scripts.write(1, ["once", "first"], ["hang"])
    job_id = bench.submit(seed=1)
    worker = start_worker(MIXKD_LEASE_SECONDS="5")
    until(scripts.left("first").exists)
    [trainer] = scripts.started(1)
    worker.kill()
    until(lambda: not alive(trainer), 10, "the trainer dies with its worker")
    assert [path.name for path in (tmp_path / "work").iterdir()] == [f"{job_id}-1"]
    start_worker("--control")
    other = start_worker()
    status(bench, job_id, "succeeded")
    job = bench.job(job_id)
    assert (job.fence, job.charged_failures) == (2, 1)
    assert [attempt.outcome for attempt in bench.attempts(job_id)] == ["lost", "succeeded"]
    until(lambda: list((tmp_path / "work").iterdir()) == [])  # it tidies up after the commit
    assert other.poll() is None


def test_lost_messages_are_made_up_for(bench: Bench, start_worker: StartWorker, broker_url: str) -> None:
    start_worker()
    start_worker("--control")
    with redis.Redis(unix_socket_path=broker_url.removeprefix("redis+socket://")) as broker:
        broker.flushall()
    job_id = bench.submit(seed=1)  # no message at all
    status(bench, job_id, "succeeded")


def test_cancel_reaches_the_trainer(bench: Bench, start_worker: StartWorker, scripts: Scripts) -> None:
    scripts.write(1, ["phase", "distil"], ["ignore SIGTERM"], ["leave", "ready"], ["hang"])
    job_id = bench.submit(seed=1)
    start_worker()
    until(scripts.left("ready").exists)
    bench.cancel(job_id)
    status(bench, job_id, "cancelled", 10)
    assert not alive(scripts.started(1)[0])


def test_an_import_is_decided_even_if_its_message_was_lost(bench: Bench, start_worker: StartWorker) -> None:
    with bench.sessions.begin() as session:
        dataset = session.get_one(Dataset, bench.dataset_id)
        dataset.status, dataset.report, dataset.fingerprint = "importing", None, None
    start_worker("--control")

    def decided() -> Dataset | None:
        with bench.sessions() as session:
            dataset = session.get_one(Dataset, bench.dataset_id)
            return dataset if dataset.status != "importing" else None

    dataset = until(decided)
    assert dataset.status == "ready"
    assert (dataset.report or {})["labels"] == ["human", "place", "time"]


def test_a_broker_that_comes_and_goes(
    bench: Bench, start_worker: StartWorker, scripts: Scripts, tmp_path: Path
) -> None:
    """The job under way does not notice; the worker hears of the next one when the broker is back."""
    scripts.write(1, ["leave", "ready"], ["wait for", "go on"], *SUCCEED)
    first = bench.submit(seed=1)
    with embedded.valkey(tmp_path / "broker", durable=False) as url:
        start_worker(MIXKD_BROKER_URL=url)
        until(scripts.left("ready").exists)
    scripts.left("go on").touch()
    status(bench, first, "succeeded")
    second = bench.submit(seed=2)
    with embedded.valkey(tmp_path / "broker", durable=False) as again:
        assert again == url
        start_worker("--control", MIXKD_BROKER_URL=url)
        status(bench, second, "succeeded")


def test_sigterm_hands_the_job_back_without_a_broker(
    bench: Bench, start_worker: StartWorker, scripts: Scripts, tmp_path: Path
) -> None:
    scripts.write(1, ["leave", "ready"], ["hang"])
    job_id = bench.submit(seed=1)
    with embedded.valkey(tmp_path / "broker", durable=False) as url:
        worker = start_worker(MIXKD_BROKER_URL=url)
        until(scripts.left("ready").exists)
    worker.terminate()
    assert ended(worker) == 0
    assert bench.job(job_id).status == "queued"


def test_a_worker_that_meets_an_old_database_says_so(
    start_worker: StartWorker, postgres_url: str, tmp_path: Path
) -> None:
    worker = start_worker(MIXKD_DATABASE_URL=postgres_url)
    assert worker.wait(60) == 1
    said = (tmp_path / "worker-0.log").read_text()
    assert "mixkd-server migrate" in said
    assert "Traceback" not in said
