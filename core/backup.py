"""A copy of the whole service in a folder, and the way back.

    DIR/backup.json        the schema's revision, when, how many rows and files
    DIR/tables/NAME.copy   the rows, as Postgres copies them out, all of one moment
    DIR/files/…            what these rows refer to in storage

A backup may be taken while jobs run. It is of one moment in the database; the files are copied after it,
which is sound because no file ever changes. A job that ran then is found without a worker after the
restore, and goes on from its checkpoint, as after the loss of a machine.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from core import schema
from core.datasets.models import Dataset
from core.errors import Conflict, InvalidInput
from core.jobs.claims import StoredCheckpoint
from core.jobs.models import Job
from core.models.models import Model
from core.storage import CorruptFileError, Storage, StoredFile

ABOUT, TABLES, FILES = "backup.json", "tables", "files"
FORMAT = 1


@dataclass(frozen=True)
class Backup:
    """What is in one."""

    format: int
    revision: str
    taken_at: str  # by the database's clock
    rows: dict[str, int]
    files: int
    missing: list[
        str
    ]  # files that were gone when their turn came: of checkpoints that were replaced meanwhile


def backup(engine: Engine, storage: Storage, folder: Path) -> Backup:
    """Copy everything into a folder that does not exist yet; it appears when it is complete.

    Raises:
        Conflict: the folder exists.
        CorruptFileError: a file that a row promises is damaged or missing, other than of a checkpoint.
    """
    if folder.exists():
        raise Conflict(f"{folder} exists; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        about = _copy_out(engine, storage, scratch)
        (scratch / ABOUT).write_text(json.dumps(asdict(about), indent=2), encoding="utf-8")
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return about


def _copy_out(engine: Engine, storage: Storage, scratch: Path) -> Backup:
    (scratch / TABLES).mkdir()
    rows = {}
    with (
        engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
        connection.begin(),
    ):
        taken_at = str(connection.exec_driver_sql("SELECT transaction_timestamp()").scalar_one())
        for table in schema.metadata().sorted_tables:
            target = scratch / TABLES / f"{table.name}.copy"
            rows[table.name] = _copy_table_out(
                _raw(connection.connection.dbapi_connection), table.name, target
            )
        promised = dict(_promised(Session(connection)))
    missing = []
    for key, (stored, may_be_gone) in sorted(promised.items()):
        try:
            storage.fetch(key, scratch / FILES / key, stored)
        except FileNotFoundError as error:
            (scratch / FILES / key).unlink(missing_ok=True)
            if not may_be_gone:
                raise CorruptFileError(f"storage has lost {key}") from error
            missing.append(key)
    revision = schema.current(engine)
    assert revision is not None
    return Backup(FORMAT, revision, taken_at, rows, len(promised) - len(missing), missing)


def _copy_table_out(connection: psycopg.Connection[Any], table: str, target: Path) -> int:
    query = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))
    with connection.cursor() as cursor, target.open("wb") as file:
        with cursor.copy(query) as copy:
            for block in copy:
                file.write(block)
        return cursor.rowcount


def _promised(session: Session) -> Iterator[tuple[str, tuple[StoredFile, bool]]]:
    """Every file that a row refers to, what it must be, and whether it may be gone by now."""
    for dataset in session.scalars(select(Dataset)):
        for file in (dataset.files or {}).values():
            yield f"datasets/{dataset.id}/{file['path']}", (StoredFile(file["size"], file["sha256"]), False)
    for model in session.scalars(select(Model)):
        for path, file in (model.files or {}).items():
            yield f"{model.prefix}/{path}", (StoredFile(file["size"], file["sha256"]), False)
    for checkpoints in session.scalars(select(Job.checkpoints)):
        for one in checkpoints:
            for kept in StoredCheckpoint.model_validate(one).files.values():
                yield kept.key, (kept.stored, True)


def restore(engine: Engine, storage: Storage, folder: Path) -> Backup:
    """Bring a backup into a database that is migrated and empty, and its files into storage.

    The files come first: until the rows are there nobody refers to them.

    Raises:
        Conflict: the database holds something already.
        InvalidInput: the folder is no backup, or one of a newer release.
    """
    about = _read(folder)
    with engine.begin() as connection:
        filled = [
            table.name
            for table in schema.metadata().sorted_tables
            if connection.execute(select(table).limit(1)).first() is not None
        ]
    if filled:
        raise Conflict(f"the database is not empty: {', '.join(filled)} have rows; restore into a new one")
    files = folder / FILES
    for path in sorted(path for path in files.rglob("*") if path.is_file()):
        storage.put_file(path.relative_to(files).as_posix(), path)
    with engine.begin() as connection, _unguarded(connection.exec_driver_sql):
        for table in schema.metadata().sorted_tables:
            source = folder / TABLES / f"{table.name}.copy"
            _copy_table_in(_raw(connection.connection.dbapi_connection), table.name, source)
    return about


def _read(folder: Path) -> Backup:
    try:
        about = Backup(**json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InvalidInput(f"{folder} is no backup: it has no usable {ABOUT}") from None
    if about.format != FORMAT or about.revision != schema.head():
        raise InvalidInput(
            f"the backup is of revision {about.revision}, this release of {schema.head()}; "
            "restore it with the release that took it, then upgrade"
        )
    return about


def _copy_table_in(connection: psycopg.Connection[Any], table: str, source: Path) -> None:
    query = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
    with connection.cursor() as cursor, cursor.copy(query) as copy, source.open("rb") as file:
        while block := file.read(1 << 20):
            copy.write(block)


@contextmanager
def _unguarded(execute: Callable[[str], object]) -> Iterator[None]:
    """Within the block jobs may be inserted in any state; the CHECKs stay."""
    execute("ALTER TABLE jobs DISABLE TRIGGER USER")
    yield
    execute("ALTER TABLE jobs ENABLE TRIGGER USER")


def _raw(connection: Any) -> psycopg.Connection[Any]:
    """What SQLAlchemy drives: COPY is beyond it."""
    assert isinstance(connection, psycopg.Connection)
    return connection
