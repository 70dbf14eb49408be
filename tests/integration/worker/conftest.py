"""A service without its HTTP face: the database, the broker, storage, and things to run in it."""

from collections.abc import Callable, Iterator, Sequence
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
    settings: Settings,
    broker_url: str,
    scripts: Scripts,
    tmp_path: Path,
) -> Iterator[Callable[..., Running]]:
    """Start a supervisor with fake trainers on what is queued."""
    running: list[Running] = []

    def make(
        every: float = 0.1,
        *,
        sessions: SessionFactory = bench.sessions,
        storage: Storage = bench.storage,
        trainer: Sequence[str] = scripts.command,
        **changed: Any,
    ) -> Running:
        worker_id = bench.worker()
        chosen = settings.model_copy(
            update={
                "work_dir": tmp_path / "work",
                "lease_seconds": 60.0,
                "cancel_grace_seconds": 1.0,
                "shutdown_grace_seconds": 6.0,
                "retry_seconds": 0.0,
                **changed,
            }
        )
        heart = Heart(bench.sessions, worker_id, every=every, lease_seconds=chosen.lease_seconds)
        heart.start()
        supervisor = Supervisor(
            sessions, storage, Queue(broker_url), heart,
            worker_id=worker_id, on_gpu=False, settings=chosen, trainer=trainer,
        )  # fmt: skip
        running.append(Running(supervisor, heart))
        return running[-1]

    yield make
    for one in running:
        one.supervisor.stop()
        one.join()
        one.heart.stop()
