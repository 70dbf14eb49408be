"""`python -m api` as whoever runs the service meets it: it starts, serves, stops, or says why it cannot."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from core.config import Settings
from tests.support.waiting import until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Start the process on these settings; its stderr goes to `tmp_path/log`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, inherit: tuple[int, ...] = (), **changed: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "MIXKD_DATABASE_URL": settings.database_url.get_secret_value(),
            "MIXKD_BROKER_URL": settings.broker_url.get_secret_value(),
            "MIXKD_STORAGE_URL": settings.storage_url,
            **changed,
        }
        with (tmp_path / "log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "api", *arguments], env=environment, stderr=log, pass_fds=inherit
                )
            )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def served(start: Start) -> tuple[subprocess.Popen[bytes], str]:
    """A process that serves on an inherited socket, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start("--fd", str(listener.fileno()), inherit=(listener.fileno(),))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"{url}/healthz", timeout=60).status_code == 200
        except httpx.TransportError:
            return False

    until(answers)
    return process, url


def test_it_stops_within_ten_seconds_though_streams_are_open(served, api, request_body, tmp_path):
    process, url = served
    with httpx.Client(base_url=url, headers=dict(api.headers), timeout=30) as client:
        job_id = client.post("/v1/jobs", json=request_body).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job_id}/events/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "event: queued"
            stopped = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert not any(line.startswith("event:") for line in lines), "the stream ends without an error"
            process.wait(60)
            assert time.monotonic() - stopped < 10
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    requests = [json.loads(line) for line in log.splitlines() if "POST /v1/jobs 201" in line]
    assert requests, "each request has its line in the log"
    assert requests[0]["request_id"]
    assert client.headers["Authorization"] not in log


def test_who_leaves_a_stream_is_no_error(served, api, request_body, tmp_path):
    """A closed browser tab must not wake the operator."""
    _, url = served
    with httpx.Client(base_url=url, headers=dict(api.headers), timeout=30) as client:
        job_id = client.post("/v1/jobs", json=request_body).json()["id"]
        for _ in range(20):
            with client.stream("GET", f"/v1/jobs/{job_id}/events/stream") as stream:
                assert next(stream.iter_lines()) == "event: queued"
            client.post(f"/v1/jobs/{job_id}/pause")  # something to send to who has gone
            client.post(f"/v1/jobs/{job_id}/resume")

    def log() -> str:
        return (tmp_path / "log").read_text()

    until(lambda: log().count("/events/stream 200 in") == 20, what="every stream has ended")
    assert "Traceback" not in log()
    assert "unhandled" not in log()


def test_ctrl_c_stops_it_without_a_traceback(served, tmp_path):
    process, _ = served
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_it_refuses_a_database_that_was_not_migrated_and_says_what_to_do(start, settings, tmp_path):
    empty = make_url(settings.database_url.get_secret_value()).set(database="postgres")
    process = start("--port", "0", MIXKD_DATABASE_URL=empty.render_as_string(hide_password=False))
    assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "mixkd-server migrate" in log
    assert "Traceback" not in log


def test_it_says_that_the_database_is_away(start, tmp_path):
    process = start("--port", "0", MIXKD_DATABASE_URL=f"postgresql+psycopg://mixkd@/mixkd?host={tmp_path}")
    assert process.wait(60) == 1
    log = (tmp_path / "log").read_text()
    assert "the database does not answer" in log
    assert "Traceback" not in log
