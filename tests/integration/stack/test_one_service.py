"""A data directory has one service: a second one is refused and does no harm; the first one always ends."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.stack import SERVER, Start, environment, starter


@pytest.fixture
def start() -> Iterator[Start]:
    with starter() as start:
        yield start


def refusal(data_dir: Path, *options: str | Path, **settings: str) -> str:
    """What a second `up` says when it ends at once."""
    result = subprocess.run(
        [SERVER, "up", "--data-dir", data_dir, "--port", "0", *options],
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_second_service_leaves_the_first_its_ready_file_and_frozen_children_are_stopped_in_time(
    start: Start, tmp_path: Path
) -> None:
    stack = start(tmp_path / "data")
    ready = (tmp_path / "data.ready").read_text()
    said = refusal(tmp_path / "data", "--ready-file", tmp_path / "data.ready")
    assert "another process runs on" in said
    assert (tmp_path / "data.ready").read_text() == ready

    for child in psutil.Process(stack.process.pid).children():  # workers and servers alike
        child.suspend()  # heeds nothing but SIGKILL
    stack.stop(signal.SIGINT)


def test_also_where_the_servers_are_elsewhere(
    start: Start, tmp_path: Path, database_url: str, broker_url: str
) -> None:
    elsewhere = {"MIXKD_DATABASE_URL": database_url, "MIXKD_BROKER_URL": broker_url}
    stack = start(tmp_path / "data", **elsewhere)
    assert "another process runs on" in refusal(tmp_path / "data", **elsewhere)
    stack.stop(signal.SIGTERM)
