"""A container's health check: `python health.py api | worker | control`; exit status 1: it is not well.

Each asks for the one thing that a restart of this container would cure. So a database that is away is
nobody's ill health here: `/readyz`, the metrics and `mixkd-server doctor` tell that. And doctor itself is
no health check: it loads torch, which takes memory from a training, and it judges the whole service.
"""

import socket
import sys
import urllib.request
from collections.abc import Callable

PORT = 8000
SECONDS = 5.0


def api() -> str | None:
    """What is wrong with the API: it does not answer. Not through a proxy that the environment names."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(f"http://127.0.0.1:{PORT}/healthz", timeout=SECONDS).close()
    except OSError as error:
        return f"the API does not answer: {error}"
    return None


def worker() -> str | None:
    """What is wrong with this worker: its heart has not reported within a lease."""
    from sqlalchemy import select

    from core.config import load
    from core.db import connect
    from core.workers import service as workers
    from core.workers.models import Worker

    settings = load()
    here = Worker.hostname == socket.gethostname()[:255]  # a container's own, unless it shares the host's
    with connect(settings).connect() as connection:
        lives = connection.scalar(
            select(Worker.id).where(here, workers.lives(settings.lease_seconds)).limit(1)
        )
    return None if lives else f"no heartbeat for {settings.lease_seconds:g} s"


def control() -> str | None:
    """What is wrong with the control worker: leases that ran out long ago are not taken up."""
    from sqlalchemy import func, select

    from core.config import load
    from core.db import connect
    from core.jobs.claims import after
    from core.jobs.models import Job
    from core.jobs.states import JobStatus

    settings = load()
    late = after(-(2 * settings.reconcile_seconds + settings.lease_seconds))
    lost = select(func.count()).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < late)
    with connect(settings).connect() as connection:
        forgotten = connection.scalar(lost)
    return f"{forgotten} jobs of lost workers are not taken up" if forgotten else None


def main() -> int:
    """Look at the part that is named; the exit status."""
    checks: dict[str, Callable[[], str | None]] = {"api": api, "worker": worker, "control": control}
    try:
        problem = checks[sys.argv[1]]()
    except Exception as error:
        # The database does not answer, or refuses: a restart here would only end a training.
        sys.stdout.write(f"cannot tell: {str(error).strip().splitlines()[0]}\n")
        return 0
    sys.stdout.write(f"{problem or 'well'}\n")
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
