"""Trainers, workers and whole machines that die, freeze or are told to stop."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from core.jobs import wishes
from mixkd.failures import explain
from tests.support.cluster import Cluster
from tests.support.waiting import alive, until


def outcomes(cluster: Cluster, job_id: str) -> list[str | None]:
    return [one.outcome for one in cluster.bench.attempts(job_id)]


def test_a_trainer_is_killed(cluster: Cluster) -> None:
    job_id = cluster.train()
    cluster.worker()
    cluster.until_stored(job_id)
    os.kill(cluster.trainer_of(job_id), signal.SIGKILL)
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["failed", "succeeded"]
    first = cluster.bench.attempts(job_id)[0]
    assert (first.cause, first.exit_code) == ("worker_lost", -9)


def test_a_worker_is_killed(cluster: Cluster) -> None:
    job_id = cluster.train()
    worker = cluster.worker()
    cluster.worker("--control")
    cluster.until_stored(job_id)
    trainer = cluster.trainer_of(job_id)
    worker.kill()
    until(lambda: not alive(trainer), 10, "the trainer dies with its worker")
    cluster.worker()
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["lost", "succeeded"]


def test_a_machine_is_lost_with_its_disk(cluster: Cluster) -> None:
    job_id = cluster.train()
    worker = cluster.worker(MIXKD_WORK_DIR=str(cluster.folder / "here"))
    cluster.worker("--control")
    reached = cluster.until_stored(job_id, step=20)
    trainer = cluster.trainer_of(job_id)
    worker.kill()
    os.kill(trainer, signal.SIGKILL)
    shutil.rmtree(cluster.folder / "here")
    cluster.worker(MIXKD_WORK_DIR=str(cluster.folder / "there"))
    until(lambda: cluster.bench.job(job_id).fence == 2 and cluster.step(job_id))
    assert cluster.step(job_id) > reached, "it goes on from storage"
    cluster.until_ended(job_id)


def test_a_job_that_crashes_every_trainer_fails_with_its_reason_and_starves_nobody(cluster: Cluster) -> None:
    cluster.scripts.write(1, ["print", "about to crash"], ["signal", int(signal.SIGSEGV)])
    poison = cluster.bench.submit(seed=1, priority=100)
    others = [cluster.train(10) for _ in range(3)]
    cluster.worker()
    cluster.worker("--control")
    cluster.until_ended(poison, *others)
    job = cluster.bench.job(poison)
    assert (job.status, job.failure_cause, job.charged_failures) == ("failed", "internal", 3)
    assert "SIGSEGV" in (job.failure or {})["detail"]
    assert all("about to crash" in (one.log_tail or "") for one in cluster.bench.attempts(poison))
    assert [cluster.bench.job(job_id).status for job_id in others] == ["succeeded"] * 3


def test_a_device_fails_under_a_training(cluster: Cluster) -> None:
    """What the trainer says of an error of CUDA; the next attempt has a new process, and so a new context."""
    failed = explain(RuntimeError("CUDA error: device-side assert triggered"))
    cluster.scripts.write(
        1, ["once", "first"], ["phase", "distil"], ["print", "CUDA error: device-side assert triggered"],
        ["say", failed.model_dump(exclude_none=True)], ["exit", 1],
    )  # fmt: skip
    job_id = cluster.bench.submit(seed=1)
    cluster.worker()
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["failed", "succeeded"]
    first = cluster.bench.attempts(job_id)[0]
    assert (first.cause, first.exit_code) == ("internal", 1)
    assert "device-side assert" in (first.log_tail or "")


def test_a_trainer_hangs(cluster: Cluster) -> None:
    cluster.scripts.write(1, ["phase", "distil"], ["hang"])
    hanging = cluster.bench.submit(seed=1, max_attempts=2)
    job_id = cluster.train(20)
    cluster.worker(MIXKD_SILENCE_SECONDS="2")
    cluster.worker("--control")
    cluster.until_ended(hanging, job_id)
    job = cluster.bench.job(hanging)
    assert (job.status, job.failure_cause) == ("failed", "internal")
    assert all("in step" in (one.log_tail or "") for one in cluster.bench.attempts(hanging)), "its stack"


def test_a_worker_is_frozen_past_its_lease(cluster: Cluster) -> None:
    """The trainer of the frozen one runs on beside the new owner's, but makes no step past the lease."""
    job_id = cluster.train(100)
    first = cluster.worker()
    cluster.worker("--control")
    cluster.until_stored(job_id)
    first.send_signal(signal.SIGSTOP)
    cluster.worker()
    until(lambda: cluster.bench.job(job_id).fence == 2 and cluster.step(job_id))
    first.send_signal(signal.SIGCONT)
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["lost", "succeeded"]
    until(lambda: first.poll() is None, 5)


def test_a_worker_is_told_to_stop(cluster: Cluster) -> None:
    job_id = cluster.train()
    worker = cluster.worker()
    cluster.until_stored(job_id)
    worker.terminate()
    assert worker.wait(8) == 0
    assert (cluster.bench.job(job_id).status, cluster.bench.job(job_id).charged_failures) == ("queued", 0)
    stopped_at = cluster.bench.job(job_id).checkpoints[0]["step"]
    cluster.worker()
    until(lambda: cluster.step(job_id))
    assert cluster.step(job_id) > stopped_at
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["handed_back", "succeeded"]
    written = (cluster.folder / "worker-0.log").read_text().splitlines()
    lines = [json.loads(line) for line in written if line.startswith("{")]  # not Celery's goodbye
    ours = [line for line in lines if line["logger"] in ("worker.supervisor", "worker.checkpoints")]
    assert {line["logger"] for line in ours} == {"worker.supervisor", "worker.checkpoints"}
    assert {(line.get("job_id"), line.get("attempt")) for line in ours} == {(job_id, 1)}


def test_all_workers_are_restarted_one_after_the_other(cluster: Cluster) -> None:
    jobs = [cluster.train(120) for _ in range(2)]
    workers = [cluster.worker(), cluster.worker()]
    cluster.worker("--control")
    for job_id in jobs:
        cluster.until_stored(job_id)
    for worker in workers:
        worker.terminate()
        assert worker.wait(8) == 0
        cluster.worker()
    cluster.until_ended(*jobs)
    for job_id in jobs:
        assert cluster.bench.job(job_id).charged_failures == 0
        assert set(outcomes(cluster, job_id)) <= {"handed_back", "succeeded"}


def test_two_reconcilers_charge_a_lost_worker_once(cluster: Cluster) -> None:
    job_id = cluster.train()
    worker = cluster.worker()
    cluster.worker("--control")
    cluster.worker("--control")
    cluster.until_stored(job_id)
    worker.kill()
    cluster.worker()
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["lost", "succeeded"]
    assert cluster.bench.job(job_id).charged_failures == 1


def test_a_user_changes_their_mind(cluster: Cluster) -> None:
    """Paused and resumed, cancelled and retried: it is the same student in the end."""
    job_id = cluster.train(100)
    cluster.worker()
    cluster.worker("--control")
    owner = cluster.bench.owner_id
    for ask, take_back, status in (
        (wishes.pause, wishes.resume, "paused"),
        (wishes.cancel, wishes.retry, "cancelled"),
    ):
        cluster.until_stored(job_id)
        with cluster.sessions.begin() as session:
            ask(session, owner, job_id)
        until(partial(cluster.is_in, job_id, status), 20)
        with cluster.sessions.begin() as session:
            take_back(session, owner, job_id)
        until(partial(cluster.is_in, job_id, "running"))
    cluster.until_ended(job_id)
    assert outcomes(cluster, job_id) == ["paused", "cancelled", "succeeded"]


def test_a_user_has_enough(cluster: Cluster) -> None:
    job_id = cluster.train(10_000)
    cluster.worker()
    cluster.until_stored(job_id)
    with cluster.sessions.begin() as session:
        wishes.finish(session, cluster.bench.owner_id, job_id)
    cluster.until_ended(job_id, seconds=20)
    assert cluster.bench.job(job_id).status == "succeeded"


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(
    not os.access(GROUPS, os.W_OK), reason="needs root, and control groups of the first version"
)
def test_the_kernel_kills_a_trainer_for_memory(cluster: Cluster) -> None:
    cluster.scripts.write(1, ["phase", "distil"], ["eat memory"])
    job_id = cluster.bench.submit(seed=1, max_attempts=2)
    group = GROUPS / f"mixkd-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(600 << 20))
        worker = cluster.worker(ready=False)
        (group / "cgroup.procs").write_text(str(worker.pid))
        cluster.worker("--control")
        cluster.until_ended(job_id)
        job = cluster.bench.job(job_id)
        assert (job.status, job.failure_cause) == ("failed", "out_of_memory")
        assert worker.poll() is None, "the supervisor survives"
    finally:
        worker.kill()
        worker.wait()
        until(lambda: not (group / "cgroup.procs").read_text().strip())
        group.rmdir()
