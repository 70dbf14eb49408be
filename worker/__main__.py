"""`python -m worker` trains; `python -m worker --control` imports, and makes up for what went missing."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

from core import log
from core.config import Settings, load
from core.db import SessionFactory, connect, session_factory
from core.errors import MixkdError
from core.ids import new_id
from core.queue import CONTROL, JOBS, Queue, celery_app
from core.start import prepare
from core.storage import Storage
from core.workers import service as workers
from worker import tasks
from worker.celery_worker import serve
from worker.heart import Heart
from worker.reconciler import reconcile
from worker.supervisor import Supervisor
from worker.trainer_process import TRAINER

IMPORT_THREADS = 2
STOP_SECONDS = 6.0
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
    sessions = session_factory(connect(settings))
    return run_control(settings, sessions) if options.control else run_jobs(settings, sessions, trainer)


def run_jobs(settings: Settings, sessions: SessionFactory, trainer: Sequence[str]) -> int:
    """Claim and run jobs."""
    worker_id = new_id("wrk")
    with sessions.begin() as session:
        workers.register(session, worker_id, socket.gethostname(), os.getpid(), device())
    heart = Heart(sessions, worker_id, every=settings.heartbeat_seconds, lease_seconds=settings.lease_seconds)
    broker_url = settings.broker_url.get_secret_value()
    supervisor = Supervisor(
        sessions,
        Storage(settings.storage_url),
        Queue(broker_url),
        heart,
        worker_id=worker_id,
        work_dir=settings.work_dir,
        lease_seconds=settings.lease_seconds,
        cancel_grace_seconds=settings.cancel_grace_seconds,
        trainer=trainer,
    )
    app = celery_app(broker_url)
    tasks.register_jobs(app, supervisor)
    heart.start()
    try:
        return serve(
            app,
            JOBS,
            threads=1,
            on_ready=supervisor.work,
            on_stop=supervisor.stop,
            stop_seconds=STOP_SECONDS,
        )
    finally:
        heart.stop()


def run_control(settings: Settings, sessions: SessionFactory) -> int:
    """Import data sets and models, and reconcile now and then.

    The reconciler has a thread and a clock of its own: sent as a message by Celery beat, it would wait
    behind imports, and leases would not expire while the broker is away.
    """
    broker_url = settings.broker_url.get_secret_value()
    queue = Queue(broker_url)
    stopping = Event()

    def reconcile_for_ever() -> None:
        while not stopping.is_set():
            try:
                reconcile(sessions, queue, settings)
            except Exception:
                logger.exception("could not reconcile; trying again in %s s", settings.reconcile_seconds)
            stopping.wait(settings.reconcile_seconds)

    app = celery_app(broker_url)
    tasks.register_control(app, sessions, Storage(settings.storage_url), settings)
    Thread(target=reconcile_for_ever, name="reconciler", daemon=True).start()
    return serve(
        app,
        CONTROL,
        threads=IMPORT_THREADS,
        on_ready=lambda: None,
        on_stop=stopping.set,
        stop_seconds=STOP_IMPORTS_SECONDS,
    )


def device() -> str:
    """The first GPU's name, or `cpu`; from the driver's own files, for torch is not loaded here."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            if line.startswith("Model:"):
                return line.removeprefix("Model:").strip()
    return "cpu"


if __name__ == "__main__":
    sys.exit(main())
