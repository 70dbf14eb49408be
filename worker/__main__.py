"""`python -m worker` trains; `python -m worker --control` imports, and makes up for what went missing."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from threading import Event, Thread

from core import log
from core.config import Settings, load
from core.db import SessionFactory, connect, session_factory
from core.errors import MixkdError
from core.ids import new_id
from core.queue import CONTROL, CPU_JOBS, GPU_JOBS, Queue, celery_app
from core.start import prepare
from core.storage import Storage
from core.workers import service as workers
from worker import devices, tasks
from worker.celery_worker import serve
from worker.heart import Heart
from worker.reconciler import reconcile
from worker.supervisor import Supervisor
from worker.sweeper import sweep
from worker.trainer_process import TRAINER

IMPORT_THREADS = 2
STOP_IMPORTS_SECONDS = 2.0

logger = logging.getLogger("worker")


def main(arguments: Sequence[str] | None = None, trainer: Sequence[str] = TRAINER) -> int:
    """Run a worker until SIGTERM or SIGINT; the exit status.

    Args:
        trainer: the program that trains, see `worker.trainer_process.run_trainer`.
    """
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.add_argument("--control", action="store_true", help="import, expire leases, resend lost messages")
    options = parser.parse_args(arguments)
    log.configure()
    try:
        settings = load()
        prepare(settings)
    except MixkdError as error:
        print(f"python -m worker: {error}", file=sys.stderr)  # noqa: T201 - for the operator at the terminal
        return 1
    sessions = session_factory(connect(settings, longest_pause=settings.lease_seconds / 2))
    return run_control(settings, sessions) if options.control else run_jobs(settings, sessions, trainer)


def run_jobs(settings: Settings, sessions: SessionFactory, trainer: Sequence[str]) -> int:
    """Claim and run jobs."""
    worker_id = new_id("wrk")
    found = devices.find()
    with sessions.begin() as session:
        workers.register(
            session,
            worker_id,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            device=found.name,
            gpus=found.gpus,
        )
    heart = Heart(sessions, worker_id, every=settings.heartbeat_seconds, lease_seconds=settings.lease_seconds)
    broker_url = settings.broker_url.get_secret_value()
    supervisor = Supervisor(
        sessions,
        Storage(settings.storage_url),
        Queue(broker_url),
        heart,
        worker_id=worker_id,
        on_gpu=found.gpus > 0,
        settings=settings,
        trainer=trainer,
    )
    app = celery_app(broker_url)
    tasks.register_jobs(app, supervisor)
    heart.start()
    try:
        return serve(
            app,
            GPU_JOBS if found.gpus else CPU_JOBS,
            threads=1,
            on_ready=supervisor.work,
            on_stop=supervisor.stop,
            stop_seconds=settings.shutdown_grace_seconds,
        )
    finally:
        heart.stop()


def run_control(settings: Settings, sessions: SessionFactory) -> int:
    """Import data sets and models, and reconcile and sweep now and then.

    These two have threads and clocks of their own: sent as a message by Celery beat, they would wait
    behind imports, and leases would not expire while the broker is away.
    """
    broker_url = settings.broker_url.get_secret_value()
    queue = Queue(broker_url)
    stopping = Event()

    def for_ever(name: str, work: Callable[[], object], every: float) -> None:
        def run() -> None:
            while not stopping.is_set():
                try:
                    work()
                except Exception:
                    logger.exception("%s: trying again in %g s", name, every)
                stopping.wait(every)

        Thread(target=run, name=name, daemon=True).start()

    storage = Storage(settings.storage_url)
    app = celery_app(broker_url)
    tasks.register_control(app, sessions, storage, settings)
    for_ever("reconciler", lambda: reconcile(sessions, queue, settings), settings.reconcile_seconds)
    for_ever("sweeper", lambda: sweep(sessions, storage, settings), settings.sweep_seconds)
    return serve(
        app,
        CONTROL,
        threads=IMPORT_THREADS,
        on_ready=lambda: None,
        on_stop=stopping.set,
        stop_seconds=STOP_IMPORTS_SECONDS,
    )


if __name__ == "__main__":
    sys.exit(main())
