"""A backup taken while jobs run, and a service that goes on from it elsewhere."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from core import backup, schema
from core.accounts import service as accounts
from core.db import connect
from core.errors import Conflict, InvalidInput
from core.storage import CorruptFileError, Storage
from tests.support.cluster import Cluster
from tests.support.waiting import until


@pytest.fixture
def make() -> Iterator[object]:
    with ExitStack() as stack:

        def cluster(name: str) -> Cluster:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"mixkd-{name}-")))
            folder.chmod(0o711)
            return Cluster(folder, stack)

        yield cluster


def empty(cluster: Cluster) -> None:
    tables = ", ".join(table.name for table in schema.metadata().sorted_tables)
    with cluster.sessions.begin() as session:
        session.execute(text(f"TRUNCATE {tables} CASCADE"))
    cluster.storage.delete([*cluster.storage.keys("models"), *cluster.storage.keys("datasets")])


def test_every_job_goes_on_after_a_restore(make, tmp_path: Path) -> None:
    """Running, queued and ended ones, in another database and another storage."""
    here = make("here")
    done = here.train(3)
    here.worker()
    here.worker("--control")
    here.until_ended(done)
    running = here.train(80)
    until(lambda: here.bench.job(running).status == "running")
    here.until_stored(running, step=10)
    queued = here.train(10)
    with here.sessions.begin() as session:
        accounts.limit(session, here.bench.owner_id, 5)
    about = backup.backup(connect(here.settings), here.storage, tmp_path / "backup")
    assert about.rows["jobs"] == 3
    here.until_ended()

    there = make("there")
    empty(there)
    backup.restore(connect(there.settings), there.storage, tmp_path / "backup")
    there.bench, there.expected, there.scripts = here.bench_in(there), here.expected, there.scripts
    for path in here.scripts.folder.glob("*.json"):
        (there.scripts.folder / path.name).write_bytes(path.read_bytes())
    before = {job_id: there.bench.job(job_id).event_seq for job_id in (done, running, queued)}
    assert there.bench.job(running).status == "running", "as it was"
    resumed_from = there.bench.job(running).checkpoints[0]["step"]
    there.worker("--control")
    there.worker()
    there.until_ended()
    assert [there.bench.job(job_id).status for job_id in (done, running, queued)] == ["succeeded"] * 3
    assert [one.outcome for one in there.bench.attempts(running)] == ["lost", "succeeded"]
    assert there.bench.job(running).event_seq > before[running]
    first = min(one["step"] for one in map(json.loads, there.history()) if one["job"] == running)
    assert first == resumed_from + 1
    assert [one for one in there.violations() if done not in one] == []


def test_a_backup_is_there_whole_or_not_at_all(make, tmp_path: Path) -> None:
    here = make("here")
    [key, *_] = here.storage.keys("models")
    here.storage.delete([key])
    with pytest.raises(CorruptFileError, match="has lost"):
        backup.backup(connect(here.settings), here.storage, tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "backup").mkdir()
    with pytest.raises(Conflict, match="exists"):
        backup.backup(connect(here.settings), here.storage, tmp_path / "backup")


def test_nothing_is_restored_over_something(make, tmp_path: Path) -> None:
    here = make("here")
    engine = connect(here.settings)
    backup.backup(engine, here.storage, tmp_path / "backup")
    with pytest.raises(Conflict, match="not empty"):
        backup.restore(engine, here.storage, tmp_path / "backup")
    with pytest.raises(InvalidInput, match="no backup"):
        backup.restore(engine, here.storage, tmp_path)
    about = tmp_path / "backup" / "backup.json"
    about.write_text(about.read_text().replace(schema.head(), "0001"))
    empty(here)
    with pytest.raises(InvalidInput, match="0001"):
        backup.restore(engine, Storage(here.settings.storage_url), tmp_path / "backup")


def test_the_guards_are_back_after_a_restore(make, tmp_path: Path) -> None:
    here = make("here")
    engine = connect(here.settings)
    backup.backup(engine, here.storage, tmp_path / "backup")
    empty(here)
    backup.restore(engine, here.storage, tmp_path / "backup")
    with pytest.raises(Exception, match="begins as queued"):
        here.bench.submit(status="paused")
