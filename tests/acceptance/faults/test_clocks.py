"""Workers and reconcilers whose clocks are wrong: only the database's decides anything."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.queue import Queue
from tests.support.clocks import shifted
from tests.support.cluster import Cluster
from tests.support.waiting import until

DAY = 24 * 3600


def wrong_by(folder: Path, seconds: int) -> dict[str, str]:
    made = shifted(folder, seconds)
    if made is None:
        pytest.skip("a wrong clock is made with a C compiler")
    return made


def test_a_wrong_clock_is_wrong(tmp_path: Path) -> None:
    asked = [
        sys.executable,
        "-c",
        "import time, datetime as d; print(time.time(), d.datetime.now().timestamp())",
    ]
    told = subprocess.run(asked, env=wrong_by(tmp_path, -DAY), capture_output=True, text=True, check=True)
    for seconds in told.stdout.split():
        assert time.time() - float(seconds) == pytest.approx(DAY, abs=60)


@pytest.mark.parametrize("seconds", [DAY, -DAY], ids=["ahead", "behind"])
def test_a_worker_with_a_wrong_clock_keeps_its_jobs_and_hears_of_new_ones(
    cluster: Cluster, tmp_path: Path, seconds: int
) -> None:
    clock = wrong_by(tmp_path, seconds)
    first = cluster.train()
    cluster.worker(**clock)
    cluster.worker("--control")
    cluster.until_ended(first)
    second = cluster.train(10)
    Queue(cluster.broker.server.url).wake("cpu")
    cluster.until_ended(second, seconds=20)
    assert [one.outcome for one in cluster.bench.attempts(first)] == ["succeeded"]


@pytest.mark.long
@pytest.mark.parametrize("seconds", [DAY, -DAY], ids=["ahead", "behind"])
def test_a_reconciler_with_a_wrong_clock_takes_jobs_from_lost_workers_only(
    cluster: Cluster, tmp_path: Path, seconds: int
) -> None:
    job_id = cluster.train(100)
    worker = cluster.worker()
    cluster.worker("--control", **wrong_by(tmp_path, seconds))
    cluster.until_stored(job_id, step=60)  # a lease long
    assert cluster.bench.job(job_id).fence == 1
    worker.send_signal(signal.SIGKILL)
    cluster.worker()
    until(lambda: cluster.bench.job(job_id).fence == 2, 20)
    cluster.until_ended(job_id)
