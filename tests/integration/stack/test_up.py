"""`mixkd-server up` as an operator meets it: its start, its end, a kill -9, and children that die."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from core import embedded

SERVER = [sys.executable, "-P", "-m", "core.cli"]
START_SECONDS = 60


@dataclass(frozen=True)
class Service:
    """A running `up`."""

    process: subprocess.Popen[bytes]
    url: str
    key: str | None
    log: Path

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, *words: str) -> psutil.Process | None:
        """Our direct child whose command has all these words, once it runs its program."""
        for process in psutil.Process(self.process.pid).children():
            try:
                command = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if all(word in command for word in words) and "_child.py" not in command:
                return process
        return None

    def status(self, path: str, key: str | None = None) -> int | None:
        """The status of a GET, None if nothing answers."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            return httpx.get(self.url + path, headers=headers, timeout=10, trust_env=False).status_code
        except httpx.HTTPError:
            return None


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that `up` is to make."""
    parent = Path(tempfile.mkdtemp(prefix="mixkd-test-"))
    parent.chmod(0o755)
    yield parent / "data"
    embedded.remove(parent / "data")
    shutil.rmtree(parent)


@contextmanager
def _up(data_dir: Path, *options: str) -> Iterator[Service]:
    """A service on a free port, ready; killed at the end if it still runs."""
    ready_file = data_dir.with_name("ready.json")
    ready_file.unlink(missing_ok=True)  # a killed `up` leaves it
    log = data_dir.with_name("up.log")
    command = [*SERVER, "up", "--data-dir", str(data_dir), "--port", "0", "--ready-file", str(ready_file)]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *options], stdout=output, stderr=output, env=_environment())
    try:
        _until(lambda: ready_file.exists() or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, log.read_text()
        assert stat.S_IMODE(ready_file.stat().st_mode) == 0o600
        ready = json.loads(ready_file.read_text())
        yield Service(process, ready["url"], ready["api_key"], log)
    finally:
        process.kill()
        process.wait()


def _environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIXKD_")}
    return {**kept, **(extra or {})}


def _mixkd_server(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=_environment(environment),
    )


def _until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; whether init has collected the others yet is not our business."""

    def alive(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if alive(process)]


def _replaced(service: Service, words: tuple[str, ...], before: psutil.Process) -> bool:
    return service.child(*words) not in {None, before}


def _socket_dirs(data_dir: Path) -> list[Path]:
    sockets = embedded.database_url(data_dir).partition("host=")[2]
    broker = embedded.broker_url(data_dir).removeprefix("redis+socket://")
    return [path for path in (Path(sockets), Path(broker).parent) if path.exists()]


def test_from_the_first_start_to_the_next(data_dir: Path) -> None:
    with _up(data_dir) as service:
        assert service.status("/readyz") == 200
        assert service.key is not None
        assert service.status("/v1/jobs", service.key) == 200
        assert service.status("/v1/jobs", service.key + "x") == 401
        said = service.log.read_text()
        assert service.url in said
        assert said.count(service.key) == 1
        assert not any(service.key in path.read_text() for path in (data_dir / "logs").iterdir())

        again = _mixkd_server("up", "--data-dir", str(data_dir), "--port", "0")
        assert again.returncode == 1
        assert "another process runs the servers" in again.stderr
        assert "Traceback" not in again.stderr

        made = _mixkd_server("create-key", "laptop", "--data-dir", str(data_dir))
        assert service.status("/v1/jobs", made.stdout.strip()) == 200
        assert _mixkd_server("migrate", "--data-dir", str(data_dir)).returncode == 0
        found = _mixkd_server("doctor", "--data-dir", str(data_dir))
        assert found.returncode == 0, found.stdout
        assert "BAD" not in found.stdout

        children = service.children()
        begun = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(30) == 0
        assert time.monotonic() - begun < 10
        assert _alive(children) == []
        assert _socket_dirs(data_dir) == []
        assert not data_dir.with_name("ready.json").exists()

    with _up(data_dir) as later:
        assert later.key is None, "a key is shown once"
        assert later.status("/v1/jobs", service.key) == 200
        later.process.send_signal(signal.SIGTERM)
        assert later.process.wait(30) == 0


def test_kill_9_leaves_nothing_running_and_the_next_start_works(data_dir: Path) -> None:
    with _up(data_dir, "--workers", "2") as service:
        key = service.key
        children = service.children()
        names = {process.name() for process in children}
        assert {"postgres", "valkey-server"} <= names
        assert sum("-m worker" in " ".join(process.cmdline()) for process in children) == 3
        service.process.kill()
        service.process.wait()
        _until(lambda: not _alive(children), 10)
    with _up(data_dir) as service:
        assert service.status("/v1/jobs", key) == 200
        assert len(_socket_dirs(data_dir)) == 2
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
    assert _socket_dirs(data_dir) == []


def test_a_child_that_dies_is_started_again_and_the_operator_told(data_dir: Path) -> None:
    names = {
        "api": ("-m api",),
        "control": ("-m worker", "--control"),
        "postgres": ("postgres -D",),
        "valkey": ("valkey-server",),
    }
    with _up(data_dir) as service:
        for name, words in names.items():
            before = service.child(*words)
            assert before is not None, name
            before.kill()
            _until(partial(_replaced, service, words, before), 30)
            _until(lambda: service.status("/readyz") == 200, 30)
            assert service.status("/v1/jobs", service.key) == 200
            assert f"{name} ended with status -9; starting it again" in service.log.read_text()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0


def test_a_port_that_is_taken_is_refused_at_once(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = _mixkd_server("up", "--data-dir", str(data_dir), "--port", str(port))
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert "Traceback" not in result.stderr
    assert not data_dir.exists()


def test_a_wrong_setting_is_refused_before_anything_starts(data_dir: Path) -> None:
    result = _mixkd_server("up", "--data-dir", str(data_dir), "--port", "0", MIXKD_LEASE_SECONDS="soon")
    assert result.returncode == 1
    assert "MIXKD_LEASE_SECONDS" in result.stderr
    assert "Traceback" not in result.stderr
    assert not data_dir.exists()


def test_a_child_that_cannot_start_is_named_with_its_last_words(data_dir: Path) -> None:
    result = _mixkd_server(
        "up", "--data-dir", str(data_dir), "--port", "0", MIXKD_STORAGE_URL="file:///proc/none"
    )
    assert result.returncode == 1
    assert "the service did not start" in result.stderr
    assert "/proc/none" in result.stderr
    assert _socket_dirs(data_dir) == []


def test_a_database_that_is_not_there_is_named(data_dir: Path) -> None:
    nowhere = f"postgresql+psycopg:///mixkd?host={data_dir.parent}"
    result = _mixkd_server("up", "--data-dir", str(data_dir), "--port", "0", MIXKD_DATABASE_URL=nowhere)
    assert result.returncode == 1
    assert "the database does not answer" in result.stderr
    assert "Traceback" not in result.stderr
    result = _mixkd_server("create-key", "mine", "--data-dir", str(data_dir))
    assert result.returncode == 1
    assert "is `mixkd-server up` running" in result.stderr


def test_remove_asks_first_and_deletes_only_what_is_ours(data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "thesis.tex").write_text("years of work")
    refused = _mixkd_server("remove", "--data-dir", str(data_dir), "--yes")
    assert refused.returncode == 1
    assert "left alone" in refused.stderr
    (data_dir / "thesis.tex").unlink()
    data_dir.rmdir()
    with embedded.valkey(data_dir):
        running = _mixkd_server("remove", "--data-dir", str(data_dir), "--yes")
        assert running.returncode == 1
        assert "another process" in running.stderr
    asked = _mixkd_server("remove", "--data-dir", str(data_dir))  # nobody answers
    assert asked.returncode == 1
    assert data_dir.exists()
    assert _mixkd_server("remove", "--data-dir", str(data_dir), "--yes").returncode == 0
    assert not data_dir.exists()


def test_doctor_tells_what_is_wrong(tmp_path: Path) -> None:
    result = _mixkd_server(
        "doctor",
        MIXKD_DATABASE_URL=f"postgresql+psycopg:///mixkd?host={tmp_path}",
        MIXKD_BROKER_URL=f"redis+socket://{tmp_path}/none.sock",
        MIXKD_STORAGE_URL=f"file://{tmp_path}/storage",
    )
    assert result.returncode == 1
    verdicts = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines()}
    assert verdicts == {"database": "BAD", "schema": "BAD", "broker": "BAD", "storage": "ok", "trainer": "ok"}
