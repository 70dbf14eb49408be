"""`mixkd-server`: the operator's command."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import psycopg
import typer
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from core.config import Settings, load
from core.errors import MixkdError

app = typer.Typer(
    help="Run mixkd: distillation as a job. Settings that are not options come from MIXKD_… variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[Path, typer.Option(help="where everything is kept; made when missing")]
RunningDataDir = Annotated[
    Path | None, typer.Option(help="the data directory of a running `up`, instead of MIXKD_… variables")
]
Host = Annotated[str, typer.Option(help="address that the API listens on")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="its port; 0: any free one")]


@app.command()
def up(
    *,
    data_dir: DataDir,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    model_root: Annotated[
        list[Path] | None, typer.Option(help="a folder that models may be registered from; repeat for more")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="how many jobs may run at the same time")] = 1,
    ready_file: Annotated[
        Path | None,
        typer.Option(help="JSON with `url` and, on the first start, `api_key`, written when all is ready"),
    ] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C: database, broker, API and workers."""
    from core import embedded, stack
    from core.db import trouble

    def announce(ready: stack.Ready) -> None:
        typer.echo(f"mixkd is ready at {ready.url} (what it offers: {ready.url}/docs)")
        if ready.api_key is not None:
            typer.echo(f"API key, shown this once: {ready.api_key}")
        if (cluster := data_dir / "postgres").is_symlink():
            typer.echo(
                f"The database lies in {cluster.readlink()}: the account that it runs as cannot reach "
                f"{data_dir}. `mixkd-server remove --data-dir {data_dir}` deletes both."
            )
        typer.echo(f"Logs are in {data_dir / 'logs'}. Ctrl-C stops everything.")
        sys.stdout.flush()

    options = stack.Options(data_dir, host, port, workers, tuple(model_root or ()), ready_file)
    try:
        stack.run(options, announce)
    except (stack.StackError, embedded.EmbeddedError, MixkdError, OSError) as error:
        _fail(error)
    except DBAPIError as error:
        _fail(trouble(error))


@app.command()
def migrate(data_dir: RunningDataDir = None) -> None:
    """Bring the database's schema up to date; make a new service's storage folder. It may be repeated."""
    from core import schema
    from core.start import set_up_storage

    with _engine(data_dir) as engine:
        before = schema.current(engine)
        if before is None:  # a service that is not new has its storage, or has lost it
            set_up_storage(_settings(data_dir).storage_url)
        schema.migrate(engine)
        after = schema.current(engine)
    typer.echo(f"revision {after}" if before == after else f"revision {before or 'none'} -> {after}")


@app.command()
def api(host: Host = "127.0.0.1", port: Annotated[int, typer.Option(min=1, max=65535)] = 8000) -> None:
    """Serve the HTTP API."""
    _become("api", "--host", host, "--port", str(port))


@app.command()
def worker() -> None:
    """Run jobs, one at a time."""
    _become("worker")


@app.command()
def control() -> None:
    """Import data sets and models, and take up the jobs of dead workers. More than one does no harm."""
    _become("worker", "--control")


@app.command()
def create_key(
    name: Annotated[str, typer.Argument(help="what the key is for")],
    owner: Annotated[str, typer.Option(help="whose key it is; made when new")] = "default",
    data_dir: RunningDataDir = None,
) -> None:
    """Make an API key and print it, this once."""
    from core.accounts import service as accounts
    from core.db import session_factory

    with _engine(data_dir) as engine:
        with session_factory(engine).begin() as session:
            _, plaintext = accounts.create_key(session, owner, name)
        typer.echo(plaintext)


@app.command()
def limit(
    owner: Annotated[str, typer.Argument(help="whose jobs")],
    running: Annotated[str, typer.Argument(help="how many may run at a time; `none`: as the settings say")],
    data_dir: RunningDataDir = None,
) -> None:
    """Limit how many jobs an owner may run at a time. Those that run go on."""
    from core.accounts import service as accounts
    from core.db import session_factory

    if running != "none" and not running.isdecimal():
        _fail(f"{running!r} is neither a number nor `none`")
    with _engine(data_dir) as engine, session_factory(engine).begin() as session:
        accounts.limit(session, owner, None if running == "none" else int(running))


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="where the copy goes; a new folder")],
    data_dir: RunningDataDir = None,
) -> None:
    """Copy the database and the files that it refers to. Jobs may run meanwhile."""
    from core import backup as backups
    from core.storage import Storage

    with _engine(data_dir) as engine, _storage_trouble():
        about = backups.backup(engine, Storage(_settings(data_dir).storage_url), folder)
    typer.echo(f"{sum(about.rows.values())} rows of {about.taken_at} and {about.files} files are in {folder}")
    if about.replaced:
        typer.echo(
            f"{len(about.replaced)} files of checkpoints or imports were gone when their turn came: "
            "such a job goes on from an earlier checkpoint; such a data set has to be sent again"
        )
    _tell_lost(about.lost)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="what `backup` wrote")],
    data_dir: Annotated[
        Path | None,
        typer.Option(help="for a later `up`; made when missing, nothing may run on it; else MIXKD_…"),
    ] = None,
) -> None:
    """Bring a backup into an empty database and into storage. Jobs that ran then go on."""
    from core import backup as backups
    from core import schema
    from core.storage import Storage, set_up

    try:
        backups.read(folder)  # before a data directory is made for it
    except MixkdError as error:
        _fail(error)
    with _resting(data_dir), _engine(data_dir) as engine, _storage_trouble():
        if data_dir is not None:
            schema.migrate(engine)
            set_up(_settings(data_dir).storage_url)
        about = backups.restore(engine, Storage(_settings(data_dir).storage_url), folder)
    typer.echo(f"{sum(about.rows.values())} rows of {about.taken_at} and {about.files} files are back")
    _tell_lost(about.lost)


def _tell_lost(keys: Sequence[str]) -> None:
    if keys:
        named = "\n  ".join(keys)
        _fail(f"{len(keys)} files are not in it, for storage had lost or damaged them:\n  {named}")


@app.command()
def remove(
    data_dir: Annotated[Path, typer.Option(help="what to delete; nothing may be running on it")],
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete a data directory for ever: jobs, data sets, models, and a database that lies elsewhere."""
    from core import embedded

    if not yes:
        typer.confirm(f"Delete {data_dir} and every job, data set and model in it?", abort=True)
    try:
        embedded.remove(data_dir)
    except (embedded.EmbeddedError, OSError) as error:
        _fail(error)


@app.command()
def doctor(data_dir: RunningDataDir = None) -> None:
    """Check every part that the service needs; exit status 1 if one is not well."""
    from core.doctor import examine

    well = True
    for finding in examine(_settings(data_dir)):
        typer.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.part:<9} {finding.detail}")
        well = well and finding.ok
    if not well:
        raise typer.Exit(1)


def _settings(data_dir: Path | None) -> Settings:
    from core import embedded

    try:
        if data_dir is None:
            return load()
        ours = {  # unless they are set, as `up` does it
            "storage_url": f"file://{data_dir.resolve() / 'storage'}",
            "work_dir": data_dir.resolve() / "work",
        }
        return load(
            database_url=SecretStr(embedded.database_url(data_dir)),
            broker_url=SecretStr(embedded.broker_url(data_dir)),
            **{name: value for name, value in ours.items() if f"MIXKD_{name.upper()}" not in os.environ},
        )
    except MixkdError as error:
        _fail(error)


@contextmanager
def _engine(data_dir: Path | None) -> Iterator[Engine]:
    from core.db import connect, trouble

    engine = connect(_settings(data_dir))
    try:
        yield engine
    except OperationalError as error:
        hint = f"is `mixkd-server up` running on {data_dir}?" if data_dir else "is MIXKD_DATABASE_URL right?"
        _fail(f"{trouble(error)}\n{hint}")
    except DBAPIError as error:
        _fail(trouble(error))
    except psycopg.Error as error:  # of a COPY, which goes past SQLAlchemy
        _fail(f"the database refuses: {error}")
    except MixkdError as error:
        _fail(error)
    finally:
        engine.dispose()


@contextmanager
def _resting(data_dir: Path | None) -> Iterator[None]:
    """Run the database of a data directory on which nothing else runs; without one, the operator runs it."""
    from core import embedded

    if data_dir is None:
        yield
        return
    try:
        with embedded.only_launcher(data_dir), embedded.postgres(data_dir):
            yield
    except embedded.EmbeddedError as error:
        _fail(error)


@contextmanager
def _storage_trouble() -> Iterator[None]:
    """Of the storage, or of the disk that a backup lies on."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (OSError, BaseError) as error:
        _fail(error)


def _become(module: str, *arguments: str) -> NoReturn:
    """Replace this process, so that signals reach the one that they are meant for."""
    from core.stack import python_module

    command = python_module(module, *arguments)
    os.execv(command[0], command)  # noqa: S606 - our own interpreter


def _fail(error: object) -> NoReturn:
    typer.echo(f"mixkd-server: {error}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
