"""Starts a Celery worker inside this process, on threads, and ends it in time."""

import logging
import os
import socket
import warnings
from collections.abc import Callable
from threading import Timer
from typing import Any

from celery import Celery, signals
from celery.exceptions import SecurityWarning

log = logging.getLogger(__name__)


def serve(
    app: Celery,
    queue: str,
    *,
    threads: int,
    on_ready: Callable[[], None],
    on_stop: Callable[[], None],
    stop_seconds: float,
) -> int:
    """Take messages from a queue until SIGTERM or SIGINT; the exit status.

    Threads, for in a pool of processes a task never learns that its worker is to stop. No gossip, mingling
    or remote control: workers have nothing to tell each other.

    Args:
        on_ready: run once as if it were a task, when the worker begins to take messages.
        on_stop: called in the signal handler.
        stop_seconds: how long running tasks may take to end after the signal; then the process ends.
    """

    def ready(sender: Any, **_: Any) -> None:
        sender.pool.apply_async(_logged(on_ready))

    def stop(**_: Any) -> None:
        on_stop()
        watchdog = Timer(stop_seconds, _give_up)
        watchdog.daemon = True
        watchdog.start()

    # Celery warns a root user of pickles in messages; ours are JSON, and nothing else is accepted.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    signals.setup_logging.connect(_leave_logging_alone, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(stop, weak=False)
    worker = app.Worker(
        hostname=f"{queue}-{os.getpid()}@{socket.gethostname()}",
        pool_cls="threads",
        concurrency=threads,
        queues=[queue],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _logged(work: Callable[[], None]) -> Callable[..., None]:
    def run(*_: Any, **__: Any) -> None:
        try:
            work()
        except Exception:  # the pool would swallow it
            log.exception("the first look for work failed")

    return run


def _leave_logging_alone(**_: Any) -> None:
    """Celery sets up logging unless somebody listens here."""


def _give_up() -> None:
    log.warning("tasks did not end in time; what they did is taken up by others")
    logging.shutdown()
    os._exit(0)
