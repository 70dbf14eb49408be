"""The whole service on one machine: servers, API and workers as children, watched, and stopped in order.

`mixkd-server up` is a thin wrapper around `run`. Every child ends with this process, however it ends
(core.processes), so a `kill -9` leaves nothing; what matters lies in Postgres and in storage.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import httpx
from pydantic import SecretStr
from sqlalchemy import Engine, select

from core import embedded, schema
from core.accounts import service as accounts
from core.accounts.models import ApiKey
from core.config import Settings, load
from core.db import connect, session_factory
from core.processes import StopSignals, open_log, rotate, spawn, stop_together, tail
from core.start import set_up_storage

TICK_SECONDS = 0.1
START_SECONDS = 60.0
ROTATE_SECONDS = 60.0
STABLE_SECONDS = 60.0  # a child that lived so long is started again with little delay
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0

# Below 10 s even if nothing heeds its signals. A worker gives itself 6 s to end its trainer and hand the job
# back; what our own processes leave of the time is the servers'.
API_STOP: StopSignals = [(signal.SIGTERM, 4.0)]
WORKER_STOP: StopSignals = [(signal.SIGTERM, 6.5)]
SERVERS_STOPPED_AFTER = 8.5
SERVER_MIN_SECONDS = 1.0
SERVER_LAST_SECONDS = 0.5

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StackError(RuntimeError):
    """The service cannot be started; the message is for the operator."""


@dataclass(frozen=True)
class Options:
    """What `mixkd-server up` was asked for; everything else comes from `MIXKD_…` variables."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    model_roots: Sequence[Path] = ()
    ready_file: Path | None = None


@dataclass(frozen=True)
class Ready:
    """What an operator, or a program, needs to know of a service that answers."""

    url: str
    api_key: str | None  # on the first start only; afterwards nobody but its owner has it


@dataclass
class _Child:
    """A process that is started again when it ends."""

    name: str
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]
    stop_signals: StopSignals
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    delay: float = 0.0
    restart_at: float | None = None  # it is down, and is started again then

    def launch(self) -> subprocess.Popen[bytes]:
        self.restart_at = None
        self.started_at = time.monotonic()
        self.process = self.start()
        return self.process

    def end(self) -> int | None:
        """The status of one that has ended and is not yet due again."""
        return self.process.poll() if self.process is not None and self.restart_at is None else None


class _Stop(BaseException):
    """A signal asks us to stop. Not an Exception: nothing in between may swallow it."""


def run(options: Options, on_ready: Callable[[Ready], None]) -> None:
    """Run the service until SIGTERM, SIGINT or SIGHUP. Call it from the main thread.

    Args:
        on_ready: called once, when every part answers.

    Raises:
        StackError, embedded.EmbeddedError: it cannot be started; nothing is left running.
    """
    with _first_signal_raises(), suppress(_Stop), ExitStack() as stack:
        try:
            _run(options, on_ready, stack)
        finally:
            _ignore_signals()  # what is being stopped has to be stopped to its end


def _run(options: Options, on_ready: Callable[[Ready], None], stack: ExitStack) -> None:
    load()  # a variable that is wrong is refused before anything starts
    environment = _environment(options)
    listening = stack.enter_context(_listen(options.host, options.port))
    stack.enter_context(embedded.only_launcher(options.data_dir))
    if options.ready_file is not None:
        options.ready_file.unlink(missing_ok=True)  # of one that was killed, for none runs
    servers = {
        name: stack.enter_context(prepare(options.data_dir))
        for name, prepare in (
            ("MIXKD_DATABASE_URL", embedded.postgres_server),
            ("MIXKD_BROKER_URL", embedded.valkey_server),
        )
        if name not in os.environ  # a server of the operator's own takes the embedded one's place
    }
    environment |= {name: server.url for name, server in servers.items()}
    environment.setdefault("MIXKD_SESSION_SECRET", _session_secret(options.data_dir / "session-secret"))
    server_children = [_server_child(server) for server in servers.values()]
    children = list(_our_children(options, environment, listening))
    stack.callback(_stop_all, children, server_children)  # before the servers' files are let go

    for server, child in zip(servers.values(), server_children, strict=True):
        embedded.wait_until_it_answers(server, child.launch())
    engine = connect(Settings(database_url=SecretStr(environment["MIXKD_DATABASE_URL"])))
    stack.callback(engine.dispose)
    if "MIXKD_STORAGE_URL" not in os.environ or schema.current(engine) is None:
        set_up_storage(environment["MIXKD_STORAGE_URL"])  # ours, or of a new service
    schema.migrate(engine)

    for child in children:
        child.launch()
    url = _url(listening)
    _await_ready(url, children)
    ready = Ready(url, _first_key(engine))
    if options.ready_file is not None:
        _write_ready(options.ready_file, ready)
        stack.callback(options.ready_file.unlink, missing_ok=True)
    on_ready(ready)
    _watch([*server_children, *children])


@contextmanager
def _first_signal_raises() -> Iterator[None]:
    """The first signal raises `_Stop` in this thread; the handlers of before come back at the end."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise _Stop

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which children would inherit


def _listen(host: str, port: int) -> socket.socket:
    """The API's socket. It is ours: the port is known at once, or refused at once, and outlives the API."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise StackError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose another --host or --port"
        ) from error


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _environment(options: Options) -> dict[str, str]:
    """The children's: ours, with a place in the data directory for what it does not name.

    Raises:
        StackError: a model root that the variable cannot express.
    """
    folder = options.data_dir.resolve()
    defaults = {"MIXKD_STORAGE_URL": f"file://{folder / 'storage'}", "MIXKD_WORK_DIR": str(folder / "work")}
    asked = {"MIXKD_SHUTDOWN_GRACE_SECONDS": "6"}  # see WORKER_STOP
    if roots := [str(root.resolve()) for root in options.model_roots]:
        for root in roots:
            if ":" in root:
                raise StackError(f"--model-root {root}: ':' separates roots; rename it, or link to it")
        asked["MIXKD_MODEL_ROOTS"] = ":".join(roots)
    return {**defaults, **os.environ, **asked}


def _session_secret(path: Path) -> str:
    """Made once, so that who is signed in stays so when the service starts again."""
    with suppress(FileNotFoundError):
        return path.read_text()
    secret = secrets.token_urlsafe(32)
    unfinished = path.with_suffix(".new")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret)
    unfinished.replace(path)
    return secret


def python_module(name: str, *arguments: str) -> list[str]:
    """The command of one of our processes. -P: a folder named `api` where the operator is, is not ours."""
    return [sys.executable, "-P", "-m", name, *arguments]


def _server_child(server: embedded.Server) -> _Child:
    return _Child(server.name, server.log, server.start, server.stop_signals)


def _our_children(
    options: Options, environment: Mapping[str, str], listening: socket.socket
) -> Iterator[_Child]:
    def child(name: str, signals: StopSignals, *module: str, inherit: Collection[int] = ()) -> _Child:
        log = options.data_dir / "logs" / f"{name}.log"

        def start() -> subprocess.Popen[bytes]:
            with open_log(log) as output:
                return spawn(
                    python_module(*module),
                    death_signal=signal.SIGKILL,  # leases and transactions are made for it
                    output=output,
                    inherit=inherit,
                    env=environment,
                )

        return _Child(name, log, start, signals)

    fd = listening.fileno()
    yield child("api", API_STOP, "api", "--fd", str(fd), inherit=[fd])
    yield child("control", WORKER_STOP, "worker", "--control")
    for number in range(1, options.workers + 1):
        yield child(f"worker-{number}", WORKER_STOP, "worker")


def _await_ready(url: str, children: Sequence[_Child]) -> None:
    """Wait until the API says that every part answers.

    Raises:
        StackError: a child ended, or the time is up.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _answers(f"{url}/readyz"):
        late = time.monotonic() > deadline
        for child in children:
            if (status := child.end()) is not None or late:
                what = "nothing answered in time" if status is None else f"{child.name} ended ({status})"
                raise StackError(f"the service did not start: {what} ({child.log}):\n{tail(child.log)}")
        time.sleep(TICK_SECONDS)


def _answers(url: str) -> bool:
    try:
        # Not through the proxy that the environment may name: this is our own socket.
        return httpx.get(url, timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _first_key(engine: Engine) -> str | None:
    """A key for the owner `default` if there is no key at all, for nobody could ask for one."""
    with session_factory(engine).begin() as session:
        if session.scalars(select(ApiKey.id).limit(1)).first() is not None:
            return None
        _, plaintext = accounts.create_key(session, "default", "first")
    return plaintext


def _write_ready(path: Path, ready: Ready) -> None:
    """Whole or not at all, and closed to others: it may hold a key."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"url": ready.url, "api_key": ready.api_key}, file)
    unfinished.replace(path)


def _watch(children: Sequence[_Child]) -> None:
    """For ever: start again whatever ends, each time a little later, and keep the logs small."""
    rotated_at = time.monotonic()
    while True:
        now = time.monotonic()
        for child in children:
            if (status := child.end()) is not None:
                _plan_restart(child, now, f"ended with status {status}")
            elif child.restart_at is not None and now >= child.restart_at:
                try:
                    child.launch()
                except OSError as error:  # no memory, no process ids: it may pass
                    _plan_restart(child, now, f"cannot be started: {error}")
        if now - rotated_at > ROTATE_SECONDS:
            rotated_at = now
            for child in children:
                rotate(child.log)
        time.sleep(TICK_SECONDS)


def _plan_restart(child: _Child, now: float, what: str) -> None:
    if now - child.started_at > STABLE_SECONDS:
        child.delay = 0.0
    child.delay = min(2 * child.delay, MAX_DELAY_SECONDS) or FIRST_DELAY_SECONDS
    child.restart_at = now + child.delay
    print(  # noqa: T201 - for the operator at the terminal
        f"mixkd-server: {child.name} {what}; starting it again in {child.delay:g} s. {child.log} ends:\n"
        f"{tail(child.log, lines=5)}",
        file=sys.stderr,
        flush=True,
    )


def _stop_all(children: Sequence[_Child], servers: Sequence[_Child]) -> None:
    """The API and the workers together, for neither needs the other; then the servers, which both need."""
    begun = time.monotonic()
    stop_together([(child.process, child.stop_signals) for child in children if child.process is not None])
    left = max(begun + SERVERS_STOPPED_AFTER - time.monotonic(), SERVER_MIN_SECONDS)
    plans = []
    for server in servers:
        if server.process is not None:
            (gentle, _), *rest = server.stop_signals
            hurried = [(gentle, left), *((number, SERVER_LAST_SECONDS) for number, _ in rest)]
            plans.append((server.process, hurried))
    stop_together(plans)
