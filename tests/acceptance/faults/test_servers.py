"""The broker, the database, storage and disks that fail while jobs run."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from core.jobs import wishes
from core.queue import Queue
from tests.support.cluster import Cluster
from tests.support.lossy_postgres import LossyPostgres
from tests.support.waiting import until


def outcomes(cluster: Cluster, job_id: str) -> list[str | None]:
    return [one.outcome for one in cluster.bench.attempts(job_id)]


# -- the broker ------------------------------------------------------------------------------------------


def test_the_broker_is_killed_and_comes_back_empty(cluster: Cluster) -> None:
    first = cluster.train()
    cluster.worker()
    cluster.worker("--control")
    cluster.until_stored(first)
    cluster.broker.kill()
    second = cluster.train(20)  # accepted without a broker
    cluster.broker.start()
    with redis.Redis(unix_socket_path=cluster.broker.server.url.removeprefix("redis+socket://")) as broker:
        broker.flushall()
    cluster.until_ended(first, second)
    assert outcomes(cluster, first) == ["succeeded"], "the job under way did not notice"


def test_the_broker_hangs_with_its_connections_open(cluster: Cluster) -> None:
    first = cluster.train()
    cluster.worker()
    cluster.worker("--control")
    cluster.until_stored(first)
    cluster.broker.signal(signal.SIGSTOP)
    second = cluster.train(20)
    cluster.until_ended(first)
    until(lambda: cluster.bench.job(second).status != "queued", 20, "the worker looks by itself")
    cluster.broker.signal(signal.SIGCONT)
    cluster.until_ended(second)
    third = cluster.train(20)
    Queue(cluster.broker.server.url).wake("cpu")
    cluster.until_ended(third)


def test_messages_come_three_times_and_late(cluster: Cluster) -> None:
    jobs = [cluster.train(15) for _ in range(3)]
    queue = Queue(cluster.broker.server.url)
    for _ in range(3 * len(jobs)):
        queue.wake("cpu")
    cluster.worker()
    cluster.worker()
    cluster.until_ended(*jobs)
    for _ in range(3):  # of jobs that have ended
        queue.wake("cpu")
    assert [outcomes(cluster, job_id) for job_id in jobs] == [["succeeded"]] * 3


# -- Postgres --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["crash", "restart"])
def test_postgres_goes_away_for_a_moment(cluster: Cluster, number: signal.Signals) -> None:
    job_id = cluster.train(100)
    cluster.worker(MIXKD_LEASE_SECONDS="20")
    cluster.worker("--control")
    cluster.until_stored(job_id)
    if number == signal.SIGKILL:
        cluster.postgres.kill()
    else:
        cluster.postgres.signal(number)
        assert cluster.postgres.process is not None
        cluster.postgres.process.wait(20)
    time.sleep(1)  # the trainer goes on meanwhile
    cluster.postgres.start()
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["succeeded"]


def test_postgres_stays_away_past_the_lease(cluster: Cluster) -> None:
    """The worker stops its trainer before the lease ends; when the database is back, the job goes on."""
    job_id = cluster.train(100)
    cluster.worker()
    cluster.worker("--control")
    cluster.until_stored(job_id)
    trainer = cluster.trainer_of(job_id)
    cluster.postgres.kill()
    until(lambda: not Path(f"/proc/{trainer}").exists(), 15, "the trainer is stopped")
    cluster.postgres.start()
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["lost", "succeeded"]


def test_answers_to_commits_are_lost(cluster: Cluster) -> None:
    """Of claims, of what the trainer said, of checkpoints, of the end: nothing is done twice or forgotten."""
    way = LossyPostgres(cluster.folder / "way", cluster.postgres.server.url)
    jobs = [cluster.train(40) for _ in range(4)]

    def all_succeeded() -> bool:
        return all(cluster.is_in(job_id, "succeeded") for job_id in jobs)

    cluster.worker(MIXKD_DATABASE_URL=way.url, MIXKD_LEASE_SECONDS="20")
    cluster.worker("--control")
    given_up, wanted = time.monotonic() + 90, 0
    while not all_succeeded():
        assert time.monotonic() < given_up
        wanted += 1
        way.lose(1)
        until(lambda: way.lost >= wanted or all_succeeded(), 30)  # noqa: B023 - over before the loop goes on
        time.sleep(0.5)  # some have to get through: a way on which none does is an outage
    way.close()
    assert way.lost >= 10
    assert [outcomes(cluster, job_id) for job_id in jobs] == [["succeeded"]] * 4


# -- storage and disks -----------------------------------------------------------------------------------


def test_storage_is_away_while_a_job_trains_and_publishes(cluster: Cluster) -> None:
    job_id = cluster.train(40)
    cluster.worker()
    cluster.until_stored(job_id)
    storage, away = cluster.folder / "storage", cluster.folder / "away"
    storage.rename(away)
    storage.write_text("no folder")  # so that nothing is made there meanwhile
    until(lambda: cluster.bench.job(job_id).phase == "publish")
    time.sleep(1.5)
    storage.unlink()
    away.rename(storage)
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["succeeded"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for very little."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_disk_is_full_at_a_checkpoint(cluster: Cluster, small_disk: Path) -> None:
    """Training goes on without it, and the next one is written when there is room again."""
    job_id = cluster.train(150)
    cluster.worker(MIXKD_WORK_DIR=str(small_disk))
    stored = cluster.until_stored(job_id)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    reached = cluster.step(job_id)
    until(lambda: cluster.step(job_id) >= reached + 20, what="it trains on")
    assert cluster.bench.job(job_id).checkpoints[0]["step"] <= max(stored, reached) + 10
    ballast.unlink()
    cluster.until_stored(job_id, step=reached + 25)
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["succeeded"]


def test_storage_is_full_when_a_student_is_published(cluster: Cluster, small_disk: Path) -> None:
    """The attempt fails once the worker's patience is over; nobody sees half a student; a retry succeeds."""
    subprocess.run(["mount", "-o", "remount,size=16k", small_disk], check=True)
    job_id = cluster.train(10, every=1000, max_attempts=1)
    shared = cluster.folder / "storage"
    jobs = shared / "jobs"
    jobs.mkdir()
    subprocess.run(["mount", "--bind", small_disk, jobs], check=True)
    try:
        cluster.worker(MIXKD_STORAGE_PATIENCE_SECONDS="2")
        cluster.until_ended(job_id)
        job = cluster.bench.job(job_id)
        assert (job.status, job.student_id) == ("failed", None)
        assert "storage" in (job.failure or {})["detail"]
        subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
        with cluster.sessions.begin() as session:
            wishes.retry(session, cluster.bench.owner_id, job_id)
        Queue(cluster.broker.server.url).wake("cpu")
        cluster.until_ended(job_id)
        assert cluster.bench.job(job_id).status == "succeeded"
        assert cluster.violations() == []
        cluster.expected.clear()
    finally:
        subprocess.run(["umount", "--lazy", jobs], check=True)
