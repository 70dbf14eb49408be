"""`mixkd-server up` as an operator meets it: its start, its end, a kill -9, and children that die."""

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import create_engine, select

from core import embedded
from core.accounts.models import Owner
from tests.support.stack import SERVER, Stack, Start, environment, starter
from tests.support.waiting import until, until_ended


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that `up` is to make."""
    parent = Path(tempfile.mkdtemp(prefix="mixkd-test-"))
    parent.chmod(0o755)
    yield parent / "data"
    embedded.remove(parent / "data")
    shutil.rmtree(parent)


@pytest.fixture
def start(data_dir: Path) -> Iterator[Start]:
    """`start(data_dir, *options)`; what it started has ended before the data directory goes."""
    with starter() as start:
        yield start


def _mixkd_server(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SERVER, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment(**settings),
    )


def _workers(stack: Stack) -> int:
    """How many workers of either kind run."""
    return sum("-m worker" in " ".join(process.cmdline()) for process in stack.children())


def _child(stack: Stack, *words: str) -> psutil.Process | None:
    """The launcher's own child whose command has all these words, once it runs its program."""
    for process in psutil.Process(stack.process.pid).children():
        try:
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if all(word in command for word in words) and "_child.py" not in command:
            return process
    return None


def _replaced(stack: Stack, words: tuple[str, ...], before: psutil.Process) -> bool:
    return _child(stack, *words) not in {None, before}


def _status(stack: Stack, path: str, key: str | None = None) -> int | None:
    """The status of a GET, None if nothing answers."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        return httpx.get(stack.url + path, headers=headers, timeout=30, trust_env=False).status_code
    except httpx.HTTPError:
        return None


def _socket_dirs(data_dir: Path) -> list[Path]:
    sockets = embedded.database_url(data_dir).partition("host=")[2]
    broker = embedded.broker_url(data_dir).removeprefix("redis+socket://")
    return [path for path in (Path(sockets), Path(broker).parent) if path.exists()]


def test_from_the_first_start_to_the_next(data_dir: Path, start: Start) -> None:
    stack = start(data_dir)
    assert stack.key is not None
    assert _status(stack, "/readyz") == 200
    assert _status(stack, "/v1/jobs", stack.key) == 200
    assert _status(stack, "/v1/jobs", stack.key + "x") == 401
    said = stack.log.read_text()
    assert stack.url in said
    assert said.count(stack.key) == 1
    assert not any(stack.key in path.read_text() for path in (data_dir / "logs").iterdir())

    again = _mixkd_server("up", "--data-dir", str(data_dir), "--port", "0")
    assert again.returncode == 1
    assert "another process runs on" in again.stderr
    assert "Traceback" not in again.stderr

    made = _mixkd_server("create-key", "laptop", "--data-dir", str(data_dir))
    assert _status(stack, "/v1/jobs", made.stdout.strip()) == 200
    assert _mixkd_server("migrate", "--data-dir", str(data_dir)).returncode == 0
    until(lambda: _workers(stack) == 2)  # they come after the API, which is all that a start waits for
    found = until(lambda: _well(data_dir))
    assert "1 with cpu" in found
    for asked, limit in (("2", 2), ("none", None)):
        assert _mixkd_server("limit", "default", asked, "--data-dir", str(data_dir)).returncode == 0
        assert _limit_of_default(data_dir) == limit
    for wrong, said in ((("nobody", "2"), "no owner"), (("default", "many"), "neither a number")):
        refused = _mixkd_server("limit", *wrong, "--data-dir", str(data_dir))
        assert (refused.returncode, said in refused.stderr) == (1, True)
    copy = data_dir.with_suffix(".backup")
    assert "files are in" in _mixkd_server("backup", str(copy), "--data-dir", str(data_dir)).stdout
    refused = _mixkd_server("restore", str(copy), "--data-dir", str(data_dir))
    assert (refused.returncode, "another process runs on" in refused.stderr) == (1, True)

    stack.stop(signal.SIGINT)
    assert _socket_dirs(data_dir) == []
    assert not data_dir.with_suffix(".ready").exists()

    later = start(data_dir)
    assert later.key is None, "a key is shown once"
    assert _status(later, "/v1/jobs", stack.key) == 200
    later.stop(signal.SIGTERM)
    refused = _mixkd_server("restore", str(copy), "--data-dir", str(data_dir))
    assert (refused.returncode, "not empty" in refused.stderr) == (1, True)


def test_a_backup_is_restored_into_a_new_data_directory(data_dir: Path, start: Start) -> None:
    stack = start(data_dir)
    copy, other = data_dir.with_suffix(".backup"), data_dir.with_name("other")
    assert _mixkd_server("backup", str(copy), "--data-dir", str(data_dir)).returncode == 0
    stack.stop(signal.SIGINT)
    restored = _mixkd_server("restore", str(copy), "--data-dir", str(other))
    assert (restored.returncode, "are back" in restored.stdout) == (0, True), restored.stderr
    again = start(other)
    assert again.key is None, "there is one, and its owner has it"
    assert _status(again, "/v1/jobs", stack.key) == 200
    again.stop(signal.SIGINT)


def test_kill_9_leaves_nothing_running_and_the_next_start_works(data_dir: Path, start: Start) -> None:
    killed = start(data_dir, "--workers", "2")
    until(lambda: _workers(killed) == 3)  # they come after the API, which is all that a start waits for
    children = killed.children()
    names = {process.name() for process in children}
    assert {"postgres", "valkey-server"} <= names
    killed.process.kill()
    killed.process.wait()
    until_ended(children, 10)

    later = start(data_dir)
    assert _status(later, "/v1/jobs", killed.key) == 200
    assert len(_socket_dirs(data_dir)) == 2
    later.stop(signal.SIGTERM)
    assert _socket_dirs(data_dir) == []


def test_a_child_that_dies_is_started_again_and_the_operator_told(data_dir: Path, start: Start) -> None:
    names = {
        "api": ("-m api",),
        "control": ("-m worker", "--control"),
        "postgres": ("postgres -D",),
        "valkey": ("valkey-server",),
    }
    stack = start(data_dir)
    for name, words in names.items():
        until(lambda words=words: _child(stack, *words) is not None)
        before = _child(stack, *words)
        assert before is not None, name
        before.kill()
        until(partial(_replaced, stack, words, before))
        until(lambda: _status(stack, "/readyz") == 200)
        assert _status(stack, "/v1/jobs", stack.key) == 200
        assert f"{name} ended with status -9; starting it again" in stack.log.read_text()
    stack.stop(signal.SIGTERM)


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
    result = _mixkd_server("up", "--data-dir", str(data_dir), "--port", "0", MIXKD_WORK_DIR="/proc/none")
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


def _limit_of_default(data_dir: Path) -> int | None:
    engine = create_engine(embedded.database_url(data_dir))
    with engine.connect() as connection:
        found = connection.execute(select(Owner.max_running).where(Owner.name == "default")).scalar_one()
    engine.dispose()
    return found


def _well(data_dir: Path) -> str | None:
    """What the doctor says once all is well."""
    found = _mixkd_server("doctor", "--data-dir", str(data_dir))
    return found.stdout if found.returncode == 0 and "BAD" not in found.stdout else None


def test_doctor_tells_what_is_wrong(tmp_path: Path) -> None:
    result = _mixkd_server(
        "doctor",
        MIXKD_DATABASE_URL=f"postgresql+psycopg:///mixkd?host={tmp_path}",
        MIXKD_BROKER_URL=f"redis+socket://{tmp_path}/none.sock",
        MIXKD_STORAGE_URL=f"file://{tmp_path}/storage",
    )
    assert result.returncode == 1
    verdicts = {line.split()[1]: line.split()[0] for line in result.stdout.splitlines()}
    parts = ("database", "schema", "clock", "workers", "queue", "control", "broker", "storage")
    assert verdicts == {**dict.fromkeys(parts, "BAD"), "room": "ok", "trainer": "ok"}
