"""A copy of the whole service in a folder, and the way back.

    DIR/backup.json        the schema's revision, when, how many rows and files, what was not to be had
    DIR/tables/NAME.copy   the rows, as Postgres copies them out, all of one moment
    DIR/files/…            what these rows refer to in storage
    DIR/SHA256SUMS         of all tables and files, for `sha256sum --check`

A backup may be taken while jobs run. It is of one moment in the database; the files are copied after it,
which is sound because no file ever changes. Jobs that ran then are handed back at the restore, uncharged, and
go on from their checkpoints.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from alembic.runtime.migration import MigrationContext
from psycopg import sql
from sqlalchemy import Connection, DateTime, Engine, Table, func, select, update
from sqlalchemy.orm import Session

from core import schema
from core.datasets.models import Dataset
from core.errors import Conflict, InvalidInput
from core.imports import ImportStatus
from core.jobs import ends
from core.jobs.claims import StoredCheckpoint
from core.jobs.models import Job
from core.jobs.states import JobStatus
from core.models.models import Model
from core.storage import CorruptFileError, Storage, StoredFile, digest

ABOUT, SUMS, TABLES, FILES = "backup.json", "SHA256SUMS", "tables", "files"
FORMAT = 1


@dataclass(frozen=True)
class Backup:
    """What is in one.

    Args:
        taken_at: by the database's clock.
        replaced: files of checkpoints and imports that were gone when their turn came, as they may be.
        lost: files that a row promises and that storage does not have, or not as they were.
    """

    format: int
    revision: str
    taken_at: str
    rows: dict[str, int]
    files: int
    replaced: list[str]
    lost: list[str]


@dataclass(frozen=True)
class _Promise:
    key: str
    stored: StoredFile
    may_go: bool  # the service itself removes it when its time is over


def backup(engine: Engine, storage: Storage, folder: Path) -> Backup:
    """Copy everything into a folder that does not exist yet; it appears when it is complete.

    A file that cannot be had does not keep the others from being saved: see `Backup.lost`.

    Raises:
        Conflict: the folder exists, or the database is not of this release's revision.
    """
    if folder.exists():
        raise Conflict(f"{folder} exists; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        _copy_out(engine, storage, scratch)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return read(folder)


def _copy_out(engine: Engine, storage: Storage, scratch: Path) -> None:
    (scratch / TABLES).mkdir()
    with (
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        revision = _revision(connection)
        taken_at = str(connection.exec_driver_sql("SELECT transaction_timestamp()").scalar_one())
        rows = {table.name: _copy_table_out(connection, table, scratch) for table in _tables()}
        promised = {one.key: one for one in _promised(Session(connection))}
    sums = [(digest(path).sha256, f"{TABLES}/{path.name}") for path in sorted((scratch / TABLES).iterdir())]
    gone = []
    for key, one in sorted(promised.items()):
        try:
            storage.fetch(key, scratch / FILES / key, one.stored)
        except (FileNotFoundError, CorruptFileError):
            (scratch / FILES / key).unlink(missing_ok=True)
            gone.append(one)
        else:
            sums.append((one.stored.sha256, f"{FILES}/{key}"))
    about = Backup(
        FORMAT,
        revision,
        taken_at,
        rows,
        len(promised) - len(gone),
        replaced=[one.key for one in gone if one.may_go],
        lost=[one.key for one in gone if not one.may_go],
    )
    (scratch / SUMS).write_text("".join(f"{sha256}  {name}\n" for sha256, name in sums), encoding="utf-8")
    (scratch / ABOUT).write_text(json.dumps(asdict(about), indent=2), encoding="utf-8")


def _revision(connection: Connection) -> str:
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None or found != schema.head():
        raise Conflict(
            f"the database is at revision {found or 'none'}, this release knows {schema.head()}: "
            "use the release that runs on it, or run `mixkd-server migrate`"
        )
    return found


def _promised(session: Session) -> Iterator[_Promise]:
    """Every file that a row refers to."""
    for dataset in session.scalars(select(Dataset)):
        importing = dataset.status == ImportStatus.IMPORTING  # may be refused, and is removed then
        for file in dataset.files.values():
            stored = StoredFile(file["size"], file["sha256"])
            yield _Promise(f"datasets/{dataset.id}/{file['path']}", stored, importing)
    for model in session.scalars(select(Model)):
        for path, file in (model.files or {}).items():
            yield _Promise(f"{model.prefix}/{path}", StoredFile(file["size"], file["sha256"]), may_go=False)
    for checkpoints in session.scalars(select(Job.checkpoints)):
        for one in checkpoints:
            for kept in StoredCheckpoint.model_validate(one).files.values():
                yield _Promise(kept.key, kept.stored, may_go=True)


def restore(engine: Engine, storage: Storage, folder: Path) -> Backup:
    """Bring a backup into a database that is migrated and empty, and its files into storage.

    The files come first: until the rows are there nobody refers to them. So a restore that fails may be
    repeated.

    Raises:
        Conflict: the database holds something already, or is not of the backup's revision.
        InvalidInput: the folder is no backup of this release, or it is damaged.
    """
    about = read(folder)
    with engine.begin() as connection:
        _revision(connection)
        _refuse_unless_empty(connection)
    _put_files(storage, folder)
    with engine.begin() as connection:
        with _unguarded(connection):
            for table in _tables():
                _copy_table_in(connection, table, folder)
        _hand_back(Session(connection), datetime.fromisoformat(about.taken_at))
    return about


def read(folder: Path) -> Backup:
    """What a backup says of itself.

    Raises:
        InvalidInput: it is none, or of another release.
    """
    try:
        about = Backup(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InvalidInput(f"{folder} is no backup: it has no usable {ABOUT}") from None
    if about.format != FORMAT or about.revision != schema.head():
        raise InvalidInput(
            f"the backup is of revision {about.revision}, this release of {schema.head()}: "
            "restore it with the release that took it, then upgrade"
        )
    return about


def _refuse_unless_empty(connection: Connection) -> None:
    filled = [t.name for t in _tables() if connection.execute(select(t).limit(1)).first() is not None]
    if filled:
        raise Conflict(
            f"the database is not empty: {', '.join(filled)} have rows; restore into a new one, "
            "after `mixkd-server migrate` and before anything else"
        )


def _put_files(storage: Storage, folder: Path) -> None:
    """Check everything, and store the files.

    Raises:
        InvalidInput: something is not as it was written.
    """
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        sha256, _, name = line.partition("  ")
        kind, _, key = name.partition("/")
        path = folder / name
        if not path.is_file():
            raise InvalidInput(f"the backup is not whole: {name} is missing")
        found = storage.put_file(key, path) if kind == FILES else digest(path)
        if found.sha256 != sha256:
            raise InvalidInput(f"the backup is damaged: {name} is not what {SUMS} says; use another one")


def _hand_back(session: Session, taken_at: datetime) -> None:
    """The workers that ran these jobs are not of this service. What lies between counts as nobody's time."""
    running = Job.status == JobStatus.RUNNING
    since = func.clock_timestamp(type_=DateTime(timezone=True)) - taken_at
    session.execute(update(Job).where(running).values(phase_started_at=Job.phase_started_at + since))
    for token in session.scalars(select(Job.lease_token).where(running)).all():
        assert token is not None
        ends.hand_back(session, token, "restored")


@contextmanager
def _unguarded(connection: Connection) -> Iterator[None]:
    """Within the block jobs may be inserted in any state; CHECKs and foreign keys stay."""
    connection.exec_driver_sql("ALTER TABLE jobs DISABLE TRIGGER USER")
    yield
    connection.exec_driver_sql("ALTER TABLE jobs ENABLE TRIGGER USER")


def _tables() -> list[Table]:
    """All of them; one comes after those that it refers to."""
    return schema.metadata().sorted_tables


def _copy_table_out(connection: Connection, table: Table, scratch: Path) -> int:
    query = _copy("COPY {} ({}) TO STDOUT WITH (HEADER)", table)
    with _raw(connection).cursor() as cursor, _rows_of(scratch, table).open("wb") as file:
        with cursor.copy(query) as copy:
            for block in copy:
                file.write(block)
        return cursor.rowcount


def _copy_table_in(connection: Connection, table: Table, folder: Path) -> None:
    query = _copy("COPY {} ({}) FROM STDIN WITH (HEADER MATCH)", table)
    with (
        _raw(connection).cursor() as cursor,
        cursor.copy(query) as copy,
        _rows_of(folder, table).open("rb") as file,
    ):
        while block := file.read(1 << 20):
            copy.write(block)


def _copy(query: Any, table: Table) -> sql.Composed:
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
    return sql.SQL(query).format(sql.Identifier(table.name), columns)


def _rows_of(folder: Path, table: Table) -> Path:
    return folder / TABLES / f"{table.name}.copy"


def _raw(connection: Connection) -> psycopg.Connection[Any]:
    """What SQLAlchemy drives: COPY is beyond it."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
