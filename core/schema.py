"""The database's schema: where its migrations lie, how to run them, and whether a database is recent enough.

A process refuses a database that is older than itself and accepts a newer one: a release first expands
the schema and contracts it one release later, so that old and new processes overlap.
"""

from importlib.util import find_spec
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData

from core.errors import Unavailable


class SchemaTooOld(Unavailable):
    """The database lacks migrations that this process needs."""

    code = "schema_too_old"
    title = "The database has to be migrated"


def metadata() -> MetaData:
    """The tables as the code sees them, all of them."""
    import core.accounts.models
    import core.datasets.models
    import core.jobs.guard
    import core.models.models
    import core.workers.models  # noqa: F401 - importing a module adds its tables
    from core.db import Base

    return Base.metadata


def alembic_config() -> Config:
    """Alembic's configuration, from the installed `migrations` package (which nothing imports)."""
    spec = find_spec("migrations")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package 'migrations' is missing from this installation")
    return Config(Path(spec.origin).with_name("alembic.ini"))


def head() -> str:
    """The revision that this code was written for."""
    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None, "the migrations package is empty"
    return revision


def current(engine: Engine) -> str | None:
    """The revision that a database is at; None if it was never migrated."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def migrate(engine: Engine, revision: str = "head") -> None:
    """Bring a database to a revision. Safe to run from several processes at once.

    A database of a newer release is left as it is.
    """
    if revision == "head" and _is_newer(current(engine)):
        return
    with engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def require_current(engine: Engine) -> None:
    """Check that a database is recent enough for this process.

    Raises:
        SchemaTooOld: it was never migrated, or not far enough.
    """
    metadata()  # a process that imported some of the tables only could not follow their foreign keys
    found = current(engine)
    if found != head() and not _is_newer(found):
        raise SchemaTooOld(
            f"the database is at revision {found or 'none'} and this release needs {head()}: "
            "run `mixkd-server migrate`"
        )


def _is_newer(revision: str | None) -> bool:
    """A revision that this code has never heard of was made by a later release."""
    if revision is None:
        return False
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    return revision not in known
