"""`mixkd-server doctor`: what a service with these settings needs, part by part."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, false, func, or_, select, text

from core import schema
from core.config import Settings
from core.db import connect, session_factory
from core.jobs import order
from core.jobs.claims import after
from core.jobs.models import Job
from core.jobs.states import JobStatus
from core.queue import CONTROL, CPU_JOBS, GPU_JOBS, Queue, celery_app
from core.storage import Storage
from core.workers import service as workers
from core.workers.models import Worker

TORCH_SECONDS = 120.0
CLOCK_SECONDS = 5.0
LITTLE_ROOM = 2e9

_TORCH = """
import torch, transformers
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["the CPU"]
print(f"torch {torch.__version__}, transformers {transformers.__version__}, on {', '.join(devices)}")
"""


@dataclass(frozen=True)
class Finding:
    """One part: whether it is as it should be, and what was seen."""

    part: str
    ok: bool
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at every part, also after one that is not well."""
    engine = connect(settings)
    checks: dict[str, Callable[[], str]] = {
        "database": lambda: _database(engine),
        "schema": lambda: _schema(engine),
        "broker": lambda: _broker(settings),
        "storage": lambda: _storage(settings),
        "room": lambda: _room(settings),
        "clock": lambda: _clock(engine),
        "workers": lambda: _workers(engine, settings),
        "queue": lambda: _queue(engine, settings),
        "control": lambda: _control(engine, settings),
        "trainer": _trainer,
    }
    for part, check in checks.items():
        try:
            yield Finding(part, ok=True, detail=check())
        except Exception as error:
            lines = str(error).strip().splitlines()
            yield Finding(part, ok=False, detail=lines[0] if lines else type(error).__name__)
    engine.dispose()


def _database(engine: Engine) -> str:
    with engine.connect() as connection:
        version = connection.execute(text("SHOW server_version")).scalar_one()
    return f"Postgres {version}"


def _schema(engine: Engine) -> str:
    schema.require_current(engine)
    return f"revision {schema.current(engine)}"


def _broker(settings: Settings) -> str:
    """How many hints wait: many for `control` mean that nobody imports; idle workers leave none for jobs."""
    url = settings.broker_url.get_secret_value()
    Queue(url).ping()
    with celery_app(url).connection_for_write() as connection:
        channel: Any = connection.default_channel
        waiting = {name: channel.queue_declare(name).message_count for name in (CPU_JOBS, GPU_JOBS, CONTROL)}
    return "hints waiting: " + ", ".join(f"{count} in {name}" for name, count in waiting.items())


def _storage(settings: Settings) -> str:
    Storage(settings.storage_url).ping()
    return settings.storage_url


def _room(settings: Settings) -> str:
    folders = {"work": settings.work_dir}
    if settings.storage_url.startswith("file://"):
        folders["storage"] = Path(settings.storage_url.removeprefix("file://"))
    free = {}
    for name, folder in folders.items():
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free[name] = shutil.disk_usage(there).free
    told = ", ".join(f"{room / 1e9:.1f} GB free for {name}" for name, room in free.items())
    if min(free.values()) < LITTLE_ROOM:
        raise RuntimeError(f"{told}: too little for a teacher, a student and checkpoints")
    return told


def _clock(engine: Engine) -> str:
    with engine.connect() as connection:
        theirs = connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
    ahead = time.time() - float(theirs)
    if abs(ahead) > CLOCK_SECONDS:
        raise RuntimeError(
            f"this machine's is {ahead:+.0f} s from the database's; jobs do not mind, logs mislead"
        )
    return f"within {CLOCK_SECONDS:g} s of the database's"


def _workers(engine: Engine, settings: Settings) -> str:
    with session_factory(engine)() as session:
        found = session.scalars(select(Worker).where(workers.lives(settings.lease_seconds))).all()
        idle = len(order.idle(session, settings.lease_seconds))
    if not found:
        raise RuntimeError("none has reported within a lease; start `mixkd-server worker`")
    kinds = Counter(f"{worker.gpus} x {worker.device}" if worker.gpus else "cpu" for worker in found)
    return ", ".join(f"{count} with {kind}" for kind, count in kinds.items()) + f"; {idle} idle"


def _queue(engine: Engine, settings: Settings) -> str:
    """Jobs that wait, and what those ask for that no living worker could have."""
    with session_factory(engine)() as session:
        living = session.scalars(select(Worker).where(workers.lives(settings.lease_seconds))).all()
        asked = (Job.device, Job.gpus, func.coalesce(Job.gpu_type, ""))
        waiting = select(*asked, func.count()).where(Job.status == JobStatus.QUEUED).group_by(*asked)
        queued = sum(row[-1] for row in session.execute(waiting))
        nobody = ~or_(false(), *(order.fits(worker) for worker in living))
        stuck = session.execute(waiting.where(nobody).order_by(*asked)).all()
    if stuck:
        wanted = ", ".join(f"{count} for {_asked(device, gpus, kind)}" for device, gpus, kind, count in stuck)
        raise RuntimeError(f"{queued} jobs wait; no living worker has what some ask for: {wanted}")
    return f"{queued} jobs wait"


def _asked(device: str, gpus: int, gpu_type: str) -> str:
    """A job's resources: `any device`, `cpu`, `2 gpu h100`."""
    if device == "gpu":
        return f"{gpus} gpu {gpu_type}".strip()
    return "any device" if device == "any" else device


def _control(engine: Engine, settings: Settings) -> str:
    """A lease that ran out long ago was not taken up: nobody reconciles."""
    late = after(-(2 * settings.reconcile_seconds + settings.lease_seconds))
    with session_factory(engine)() as session:
        query = select(func.count()).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < late)
        forgotten = session.scalars(query).one()
    if forgotten:
        raise RuntimeError(f"{forgotten} jobs of lost workers are not taken up; start `mixkd-server control`")
    return "no lost job waits for it"


def _trainer() -> str:
    """In a process of its own: nothing but the trainer loads torch."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", _TORCH],
        capture_output=True,
        text=True,
        timeout=TORCH_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise RuntimeError(f"{lines[-1]}; pip install 'mixkd[train]'")
    return result.stdout.strip()
