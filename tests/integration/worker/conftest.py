"""A service without its HTTP face: the database, the broker, storage, and things to run in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import Settings
from core.db import SessionFactory
from core.queue import Queue
from core.storage import Storage
from tests.support.fake_trainer import Scripts
from tests.support.jobs import Bench
from tests.support.running import Running
from worker.heart import Heart
from worker.supervisor import Supervisor


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The service's storage."""
    return Storage(settings.storage_url)


@pytest.fixture
def bench(sessions: SessionFactory, storage: Storage) -> Bench:
    """An owner with a ready teacher and a ready data set."""
    return Bench(sessions, storage)


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    """What fake trainers are told, and the traces they leave."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    return Scripts(folder)


@pytest.fixture
def start(
    bench: Bench,
    broker_url: str,
    scripts: Scripts,
    tmp_path: Path,
) -> Iterator[Callable[..., Running]]:
    """Start a supervisor with fake trainers on what is queued."""
    running: list[Running] = []

    def make(**changes: Any) -> Running:
        worker_id = bench.worker()
        lease_seconds = changes.pop("lease_seconds", 60.0)
        heart = Heart(bench.sessions, worker_id, every=changes.pop("every", 0.1), lease_seconds=lease_seconds)
        heart.start()
        options: dict[str, Any] = {
            "sessions": bench.sessions,
            "storage": bench.storage,
            "worker_id": worker_id,
            "work_dir": tmp_path / "work",
            "lease_seconds": lease_seconds,
            "cancel_grace_seconds": 1.0,
            "trainer": scripts.command,
        }
        options |= changes
        running.append(Running(Supervisor(queue=Queue(broker_url), heart=heart, **options), heart))
        return running[-1]

    yield make
    for one in running:
        one.supervisor.stop()
        one.join()
        one.heart.stop()
