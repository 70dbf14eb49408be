"""What the doctor sees in the tables: workers, jobs that nobody can have, jobs that nobody takes up."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from core import doctor
from core.config import Settings
from core.db import connect
from core.jobs import claims
from tests.support.jobs import Bench

Look = Callable[[str], str]


@pytest.fixture
def look(settings: Settings) -> Iterator[Look]:
    engine = connect(settings)
    yield lambda part: getattr(doctor, part)(engine, settings)
    engine.dispose()


def test_without_workers_nothing_is_done(bench: Bench, look: Look) -> None:
    with pytest.raises(RuntimeError, match="mixkd-server worker"):
        look("_workers")
    bench.worker()
    assert look("_workers") == "1 with cpu"


def test_jobs_that_no_worker_could_have(bench: Bench, look: Look) -> None:
    bench.worker()
    bench.submit()
    assert look("_queue") == "1 jobs wait"
    bench.submit(device="gpu", gpu_type="h100")
    with pytest.raises(RuntimeError, match="2 jobs wait, 1 of them for devices that no living worker has"):
        look("_queue")


def test_lost_jobs_that_nobody_takes_up(bench: Bench, look: Look) -> None:
    bench.submit()
    with bench.sessions.begin() as session:
        assert claims.claim(session, bench.worker(), uuid4(), 60) is not None
    assert "no lost job" in look("_control")
    with bench.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = clock_timestamp() - interval '1 hour'"))
    with pytest.raises(RuntimeError, match="mixkd-server control"):
        look("_control")


def test_a_disk_without_room_and_a_clock_that_is_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LITTLE_ROOM", 1e18)
    with pytest.raises(RuntimeError, match="too little"):
        doctor._room(settings)
    engine = connect(settings)
    assert "within" in doctor._clock(engine)
    monkeypatch.setattr(doctor, "CLOCK_SECONDS", -1)
    with pytest.raises(RuntimeError, match="logs mislead"):
        doctor._clock(engine)
    engine.dispose()
