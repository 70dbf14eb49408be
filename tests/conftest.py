"""What every test may use: a real Postgres and a real Valkey of this test process, and a migrated database.

The servers start with the first test that asks for one. A test that touches the database leaves its
tables empty and its broker flushed.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import Engine, make_url, text
from sqlalchemy.orm import Session

from core import embedded, schema
from core.config import Settings
from core.db import SessionFactory, connect, session_factory
from core.storage import set_up


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """The data directory of this process's servers."""
    folder = Path(tempfile.mkdtemp(prefix="mixkd-test-"))
    folder.chmod(0o711)  # as root, Postgres's account passes through; the folder is ours
    yield folder
    embedded.remove(folder)


@pytest.fixture(scope="session")
def postgres_url(server_dir: Path) -> Iterator[str]:
    """A Postgres server: the URL of its (empty) database `mixkd`."""
    with embedded.postgres(server_dir, durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def broker_url(server_dir: Path) -> Iterator[str]:
    """A Valkey server, as Celery names it: `redis+socket://…`."""
    with embedded.valkey(server_dir, durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def database_url(postgres_url: str) -> str:
    """A database that the migrations made."""
    engine = connect(Settings(database_url=SecretStr(postgres_url)))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE migrated"))
    engine.dispose()
    url = make_url(postgres_url).set(database="migrated").render_as_string(hide_password=False)
    engine = connect(Settings(database_url=SecretStr(url)))
    schema.migrate(engine)
    engine.dispose()
    return url


@pytest.fixture(scope="session")
def settings(database_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a service on this process's servers, with a storage folder of its own."""
    storage_url = f"file://{tmp_path_factory.mktemp('storage')}"
    set_up(storage_url)
    return Settings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(broker_url),
        storage_url=storage_url,
        work_dir=tmp_path_factory.mktemp("work"),
        session_secret=SecretStr("a secret of 32 characters, or more"),
    )


@pytest.fixture(scope="session")
def engine(settings: Settings) -> Iterator[Engine]:
    """An engine on the migrated database."""
    engine = connect(settings)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def sessions(engine: Engine) -> SessionFactory:
    """Sessions on the migrated database."""
    return session_factory(engine)


@pytest.fixture
def session(sessions: SessionFactory) -> Iterator[Session]:
    """One session; what it did not commit is rolled back."""
    with sessions() as session:
        yield session


@pytest.fixture(autouse=True)
def _leave_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Empty the tables and the broker after a test that used them, and only then."""
    used = set(request.fixturenames)
    engine: Engine | None = request.getfixturevalue("engine") if "database_url" in used else None
    broker: str | None = request.getfixturevalue("broker_url") if "broker_url" in used else None
    yield
    if engine is not None:
        tables = ", ".join(table.name for table in schema.metadata().sorted_tables)
        with engine.begin() as connection:
            # A transaction that a test left open would block this for ever; say so instead.
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            connection.execute(text(f"TRUNCATE {tables} CASCADE"))
    if broker is not None:
        with redis.Redis(unix_socket_path=broker.removeprefix("redis+socket://")) as client:
            client.flushall()
