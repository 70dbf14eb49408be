"""A backup taken while jobs run, and a service that goes on from it elsewhere."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text, update
from typer.testing import CliRunner

from core import backup, schema
from core.accounts import service as accounts
from core.cli import app
from core.db import connect
from core.errors import Conflict, InvalidInput
from core.jobs import claims
from core.jobs.models import Job
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
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "backup", check=True
    )
    there.bench, there.expected, there.scripts = here.bench_in(there), here.expected, there.scripts
    for path in here.scripts.folder.glob("*.json"):
        (there.scripts.folder / path.name).write_bytes(path.read_bytes())
    before = {job_id: there.bench.job(job_id).event_seq for job_id in (done, running, queued)}
    assert there.bench.job(running).status == "queued", "its worker is of the other service"
    assert there.bench.job(running).charged_failures == 0
    resumed_from = there.bench.job(running).checkpoints[0]["step"]
    there.worker("--control")
    there.worker()
    there.until_ended()
    assert [there.bench.job(job_id).status for job_id in (done, running, queued)] == ["succeeded"] * 3
    assert [one.outcome for one in there.bench.attempts(running)] == ["handed_back", "succeeded"]
    assert there.bench.job(running).event_seq > before[running]
    for job_id, last in before.items():
        numbers = [event.seq for event in there.bench.events(job_id)]
        assert numbers == list(range(1, len(numbers) + 1)), "no gap"
        assert len(numbers) >= last
    first = min(one["step"] for one in map(json.loads, there.history()) if one["job"] == running)
    assert first == resumed_from + 1
    assert [one for one in there.violations() if done not in one] == []


def test_what_storage_has_lost_is_named_and_all_else_is_saved(make, tmp_path: Path) -> None:
    here, there = make("here"), make("there")
    lost, damaged, *_ = sorted(here.storage.keys("models"))
    here.storage.delete([lost])
    (here.folder / "storage" / damaged).write_bytes(b"rot")
    about = backup.backup(connect(here.settings), here.storage, tmp_path / "backup")
    assert about.lost == [lost, damaged]
    variables = {
        "MIXKD_DATABASE_URL": here.settings.database_url.get_secret_value(),
        "MIXKD_STORAGE_URL": here.settings.storage_url,
    }
    again = CliRunner().invoke(app, ["backup", str(tmp_path / "again")], env=variables)
    assert (again.exit_code, (tmp_path / "again").exists()) == (1, True)
    assert all(key in again.stderr for key in about.lost)
    empty(there)
    backup.restore(connect(there.settings), there.storage, tmp_path / "backup")
    whole = {*here.storage.keys("models"), *here.storage.keys("datasets")} - {damaged}
    assert {*there.storage.keys("models"), *there.storage.keys("datasets")} == whole


def test_a_checkpoint_that_was_replaced_meanwhile_is_no_loss(make, tmp_path: Path) -> None:
    here = make("here")
    job_id = here.bench.submit()
    stored = {"key": f"jobs/{job_id}/1/checkpoints/00", "size": 1, "sha256": "0" * 64}
    kept = [{"attempt": 1, "phase": "distil", "step": 5, "files": {"model": stored}}]
    with here.sessions.begin() as session:
        session.execute(update(Job).values(checkpoints=kept))
    about = backup.backup(connect(here.settings), here.storage, tmp_path / "backup")
    assert (about.replaced, about.lost) == ([stored["key"]], [])


def test_a_backup_is_there_whole_or_not_at_all(make, tmp_path: Path, monkeypatch) -> None:
    here = make("here")
    engine = connect(here.settings)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(here.storage, "fetch", full)
        with pytest.raises(OSError, match="No space"):
            backup.backup(engine, here.storage, tmp_path / "backup")
    with here.sessions.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0002'"))
    with pytest.raises(Conflict, match="0002"):
        backup.backup(engine, here.storage, tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "backup").mkdir()
    with pytest.raises(Conflict, match="exists"):
        backup.backup(engine, here.storage, tmp_path / "backup")


def test_what_may_not_be_restored(make, tmp_path: Path) -> None:
    here = make("here")
    engine = connect(here.settings)
    folder = tmp_path / "backup"
    backup.backup(engine, here.storage, folder)
    with pytest.raises(Conflict, match="not empty"):
        backup.restore(engine, here.storage, folder)
    with pytest.raises(InvalidInput, match="no backup"):
        backup.restore(engine, here.storage, tmp_path)
    empty(here)
    rows = folder / "tables" / "models.copy"
    whole = rows.read_text()
    rows.write_text(whole.replace("tiny", "tinY"))
    with pytest.raises(InvalidInput, match=r"damaged: tables/models\.copy"):
        backup.restore(engine, here.storage, folder)
    rows.unlink()
    with pytest.raises(InvalidInput, match="not whole"):
        backup.restore(engine, here.storage, folder)
    rows.write_text(whole)
    about = folder / "backup.json"
    told = about.read_text()
    about.write_text(told.replace(schema.head(), "0001"))
    with pytest.raises(InvalidInput, match="0001"):
        backup.restore(engine, here.storage, folder)
    about.write_text(told)
    backup.restore(engine, here.storage, folder)  # what failed may be repeated


def test_the_time_between_backup_and_restore_is_no_phases(make, tmp_path: Path) -> None:
    """A month, as if both were a month old: its rows and what it says of itself."""
    here = make("here")
    job_id, month = here.bench.submit(), timedelta(days=30)
    with here.sessions.begin() as session:
        claim = claims.claim(session, here.bench.worker(), uuid4(), 60)
        assert claim is not None
        claims.enter_phase(session, claim.token, "distil")
        session.execute(update(Job).values(phase_started_at=Job.phase_started_at - month))
    backup.backup(connect(here.settings), here.storage, tmp_path / "backup")
    about = tmp_path / "backup" / "backup.json"
    told = json.loads(about.read_text())
    told["taken_at"] = str(datetime.fromisoformat(told["taken_at"]) - month)
    about.write_text(json.dumps(told))
    empty(here)
    backup.restore(connect(here.settings), here.storage, tmp_path / "backup")
    [attempt] = here.bench.attempts(job_id)
    assert attempt.phase_seconds["distil"] < 60


def test_the_guards_are_back_after_a_restore(make, tmp_path: Path) -> None:
    here = make("here")
    engine = connect(here.settings)
    backup.backup(engine, here.storage, tmp_path / "backup")
    empty(here)
    backup.restore(engine, here.storage, tmp_path / "backup")
    with pytest.raises(Exception, match="begins as queued"):
        here.bench.submit(status="paused")
