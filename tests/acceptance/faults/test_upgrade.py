"""The release before this one, beside this one on the same database, while jobs run."""

import subprocess
from functools import partial
from pathlib import Path

import pytest

from core.jobs import wishes
from tests.support.cluster import ROOT, Cluster
from tests.support.waiting import until

BEFORE = "5d7a2c3f4f6051d9d48bf64b74814ab4a88f72dc"  # the last commit of schema 0002
UNTIL_RELEASED = [["once", "first"], ["phase", "distil"], ["leave", "ready"], ["hang"]]


@pytest.fixture(scope="session")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its code, out of the history."""
    folder = tmp_path_factory.mktemp("before")
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("this clone lacks the history")
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


@pytest.mark.long
def test_jobs_outlive_a_rolling_upgrade(cluster: Cluster, before: Path) -> None:
    """Migrated under a worker of the old release, which hands its job back; the new one takes it up."""
    cluster.scripts.write(1, *UNTIL_RELEASED)
    job_id = cluster.bench.submit(seed=1)
    old = cluster.worker(code=before)
    until(cluster.scripts.left("ready").exists)
    cluster.worker("--control")
    cluster.worker()
    old.terminate()
    assert old.wait(10) == 0
    until(partial(cluster.is_in, job_id, "succeeded"))
    assert [one.outcome for one in cluster.bench.attempts(job_id)] == ["handed_back", "succeeded"]
    assert "jobs.cpu" not in (cluster.folder / "worker-0.log").read_text(), "it is of the release before"


@pytest.mark.long
@pytest.mark.parametrize("end", ["succeeded", "failed"])
def test_the_old_release_ends_what_it_does_not_understand(cluster: Cluster, before: Path, end: str) -> None:
    """Wishes that came in by the new API while the old worker runs the job."""
    last = [["say", {"type": "done"}]] if end == "succeeded" else [["exit", 1]]
    cluster.scripts.write(1, ["phase", "distil"], ["leave", "ready"], ["wait for", "go on"],
                          *([["student"]] if end == "succeeded" else []), *last)  # fmt: skip
    job_id = cluster.bench.submit(seed=1, max_attempts=1)
    cluster.worker(code=before)
    until(cluster.scripts.left("ready").exists)
    with cluster.sessions.begin() as session:
        wishes.pause(session, cluster.bench.owner_id, job_id)
        wishes.finish(session, cluster.bench.owner_id, job_id)
    cluster.scripts.left("go on").touch()
    until(partial(cluster.is_in, job_id, end))
