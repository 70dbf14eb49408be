"""The migrations make exactly the tables that the code describes, and undo what they did."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
from alembic import command
from alembic.util import CommandError
from pydantic import SecretStr
from sqlalchemy import Engine, inspect, make_url, text
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from core import schema
from core.cli import app
from core.config import Settings
from core.db import connect
from core.errors import Unavailable
from core.jobs import claims, ends
from core.jobs.states import JobStatus
from core.storage import Storage
from core.workers import service as workers
from tests.support.waiting import until


@pytest.fixture
def empty(postgres_url: str) -> Iterator[Engine]:
    """An empty database, dropped afterwards."""
    server = connect(Settings(database_url=SecretStr(postgres_url)))
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE empty"))
    url = make_url(postgres_url).set(database="empty").render_as_string(hide_password=False)
    engine = connect(Settings(database_url=SecretStr(url)))
    yield engine
    engine.dispose()
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE empty WITH (FORCE)"))
    server.dispose()


def _alembic(engine: Engine, what: str, *arguments: str) -> None:
    with engine.connect() as connection:
        config = schema.alembic_config()
        config.attributes["connection"] = connection
        getattr(command, what)(config, *arguments)


def _definitions(engine: Engine, query: str) -> dict[str, str]:
    with engine.connect() as connection:
        return {row[0]: row[1] for row in connection.execute(text(query))}


# As Postgres prints them, so that spelling does not matter. Alembic compares neither.
CHECKS = """
    SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'public'::regnamespace"""
INDEXES = """
    SELECT indexname, indexdef FROM pg_indexes
    WHERE schemaname = 'public' AND tablename <> 'alembic_version'"""


def test_alembic_finds_nothing_left_to_do(empty: Engine) -> None:
    schema.migrate(empty)
    _alembic(empty, "check")


def test_alembic_notices_a_column_that_the_code_does_not_know(empty: Engine) -> None:
    schema.migrate(empty)
    with empty.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD COLUMN colour text"))
    with pytest.raises(CommandError, match="colour"):
        _alembic(empty, "check")


FUNCTIONS = """
    SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace"""
TRIGGERS = """
    SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"""


@pytest.mark.parametrize(
    "query", [CHECKS, INDEXES, FUNCTIONS, TRIGGERS], ids=["checks", "indexes", "functions", "triggers"]
)
def test_what_alembic_does_not_compare_is_as_in_the_code(
    empty: Engine, database_url: str, query: str
) -> None:
    schema.metadata().create_all(empty)
    expected = _definitions(empty, query)
    migrated = connect(Settings(database_url=SecretStr(database_url)))
    found = _definitions(migrated, query)
    migrated.dispose()
    assert found == expected != {}


def test_a_downgrade_leaves_an_empty_database(empty: Engine) -> None:
    schema.migrate(empty)
    _alembic(empty, "downgrade", "base")
    assert inspect(empty).get_table_names() == ["alembic_version"]
    schema.migrate(empty)
    assert schema.current(empty) == schema.head()


def test_two_migrations_at_once_wait_for_each_other(empty: Engine) -> None:
    code = "from core import db, config, schema; schema.migrate(db.connect(config.Settings()))"
    url = empty.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"MIXKD_DATABASE_URL": url})
        for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert schema.current(empty) == schema.head()


def test_the_storage_folder_is_made_with_a_new_database_only(empty: Engine, tmp_path: Path) -> None:
    """Later it is made by nobody: the volume is not mounted."""
    folder = tmp_path / "storage"
    variables = {
        "MIXKD_DATABASE_URL": empty.url.render_as_string(hide_password=False),
        "MIXKD_STORAGE_URL": f"file://{folder}",
    }
    assert CliRunner().invoke(app, ["migrate"], env=variables).exit_code == 0
    Storage(f"file://{folder}").ping()
    shutil.rmtree(folder)
    assert CliRunner().invoke(app, ["migrate"], env=variables).exit_code == 0
    assert not folder.exists()


HEARTBEAT = "UPDATE jobs SET lease_expires_at = now() WHERE lease_token = gen_random_uuid()"


def test_no_heartbeat_waits_for_a_migration_that_waits_for_a_reader(empty: Engine) -> None:
    """Everybody queues up behind who waits for a table, and a backup reads one for an hour."""
    schema.migrate(empty, "0002")
    migration = Thread(target=schema.migrate, args=[empty])
    with empty.connect() as reader:
        reader.execute(text("SELECT count(*) FROM jobs"))
        migration.start()
        with empty.connect() as waiting:
            until(lambda: waiting.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))
        with empty.begin() as worker:
            worker.execute(text("SET LOCAL statement_timeout = '10s'"))
            worker.execute(text(HEARTBEAT))
        assert migration.is_alive(), "it tries again"
    migration.join(60)
    assert schema.current(empty) == schema.head()


def test_a_migration_does_not_wait_for_ever(empty: Engine) -> None:
    schema.migrate(empty, "0002")
    with empty.connect() as reader, empty.connect() as connection:
        reader.execute(text("SELECT count(*) FROM jobs"))
        config = schema.alembic_config()
        config.attributes |= {"connection": connection, "tries": 1}
        with pytest.raises(Unavailable, match="in use"):
            command.upgrade(config, "head")
    assert schema.current(empty) == "0002"
    schema.migrate(empty)


def test_a_database_that_was_never_migrated_is_refused(empty: Engine) -> None:
    with pytest.raises(schema.SchemaTooOld, match="mixkd-server migrate"):
        schema.require_current(empty)


def test_an_older_database_is_refused_and_a_newer_one_accepted_and_left_alone(empty: Engine) -> None:
    schema.migrate(empty)
    schema.require_current(empty)
    with empty.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    schema.require_current(empty)
    schema.migrate(empty)
    assert schema.current(empty) == "9999"
    with empty.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(schema.SchemaTooOld):
        schema.require_current(empty)


OF_THE_RELEASE_BEFORE = """
    INSERT INTO owners (id, name) VALUES ('own_1', 'ann');
    INSERT INTO workers (id, hostname, pid, device) VALUES ('wrk_1', 'here', 1, 'cpu');
    INSERT INTO models (id, owner_id, name, kind, source, status, prefix, files, info)
        VALUES ('mdl_1', 'own_1', 'm', 'teacher', 'upload:', 'ready', 'models/mdl_1', '{}', '{}');
    INSERT INTO datasets (id, owner_id, name, status, format, columns, files, report, fingerprint)
        VALUES ('ds_1', 'own_1', 'd', 'ready', 'jsonl', '{}', '{}', '{}', 'f');
    INSERT INTO jobs (id, owner_id, name, teacher_id, dataset_id, recipe, status, fence, worker_id,
                      lease_token, lease_expires_at, event_seq)
        VALUES ('job_1', 'own_1', 'j', 'mdl_1', 'ds_1', '{}', 'running', 1, 'wrk_1', gen_random_uuid(),
                clock_timestamp() - interval '1 s', 1);
    INSERT INTO job_attempts (job_id, number, owner_id, worker_id, lease_token)
        SELECT id, 1, owner_id, worker_id, lease_token FROM jobs;
    INSERT INTO job_events (job_id, seq, owner_id, type, data) VALUES ('job_1', 1, 'own_1', 'queued', '{}')"""


def test_a_job_that_runs_during_an_upgrade_is_not_lost(empty: Engine) -> None:
    """Its worker was stopped for it; the new release finds the lease run out and takes the job up."""
    schema.migrate(empty, "0002")
    with empty.begin() as connection:
        connection.execute(text(OF_THE_RELEASE_BEFORE))
    schema.migrate(empty)
    with Session(empty) as session, session.begin():
        assert ends.expire_leases(session) == [("job_1", JobStatus.QUEUED)]
        workers.register(session, "wrk_2", hostname="here", pid=2, device="cpu", gpus=0)
        claim = claims.claim(session, "wrk_2", uuid4(), 60)
        assert claim is not None
        assert (claim.job_id, claim.fence, claim.checkpoints) == ("job_1", 2, ())
