"""What the doctor sees in the tables: workers, jobs that nobody can have, jobs that nobody takes up."""

import re
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import text

from core import doctor
from core.config import Settings
from core.db import connect
from core.jobs import claims
from core.queue import Queue
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
    assert look("_workers") == "1 with cpu; 1 idle"
    bench.submit()
    with bench.sessions.begin() as session:
        assert claims.claim(session, bench.worker(), uuid4(), 60) is not None
    assert look("_workers") == "2 with cpu; 1 idle"


def test_jobs_that_no_worker_could_have(bench: Bench, look: Look) -> None:
    bench.worker()
    bench.submit()
    assert look("_queue") == "1 jobs wait"
    for gpus, gpu_type in ((1, "h100"), (1, "h100"), (4, None)):
        bench.submit(device="gpu", gpus=gpus, gpu_type=gpu_type)
    with pytest.raises(RuntimeError, match=r"4 jobs wait; .* some ask for: 2 for 1 gpu h100, 1 for 4 gpu$"):
        look("_queue")


def test_hints_that_wait(settings: Settings) -> None:
    before = hints(settings)
    queue = Queue(settings.broker_url.get_secret_value())
    queue.wake("cpu")
    queue.wake("any")
    queue.import_model("mdl_none")
    now = hints(settings)
    assert {name: now[name] - before[name] for name in now} == {"jobs.cpu": 2, "jobs.gpu": 1, "control": 1}


def hints(settings: Settings) -> dict[str, int]:
    return {name: int(count) for count, name in re.findall(r"(\d+) in ([a-z.]+)", doctor._broker(settings))}


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
