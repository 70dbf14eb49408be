"""What chaos acts upon: a cluster with three machines, two reconcilers and jobs that never run out.

Whatever a fault broke is mended later by what it left in `world.later`; a machine whose worker has ended gets
a new one, as any init system would see to.
"""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from core.jobs.models import Job
from core.jobs.states import FINAL
from tests.support.cluster import Cluster, Process
from tests.support.lossy_postgres import LossyPostgres

SETTINGS = {
    "MIXKD_LEASE_SECONDS": "4",
    "MIXKD_SILENCE_SECONDS": "4",
    "MIXKD_RETRY_SECONDS": "0.2",
    "MIXKD_SWEEP_SECONDS": "2",
}
WORKERS = 3
UNDER_WAY = 6  # jobs that have not ended
STOP_SECONDS = 15.0  # of MIXKD_SHUTDOWN_GRACE_SECONDS = 6, on a machine that is busy with faults


def now() -> float:
    """The clock of the history of steps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Machine:
    """One of the places that jobs run on."""

    work_dir: Path
    process: Process | None = None
    arguments: tuple[str, ...] = ()
    frozen: bool = False
    stopping_since: float | None = None

    @property
    def up(self) -> bool:
        """Whether its worker runs and has not been told to stop."""
        running = self.process is not None and self.process.poll() is None
        return running and not self.frozen and self.stopping_since is None

    def trainers(self) -> list[psutil.Process]:
        """The processes that its worker has started."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children() if self.process else []
        return []


class World:
    """All of it; `tick` lets it live on for a moment."""

    def __init__(self, folder: Path, stack: ExitStack, random_: random.Random) -> None:
        self.random = random_
        self.cluster = Cluster(folder, stack)
        self.proxy = LossyPostgres(folder / "proxy", self.cluster.postgres.server.url)
        stack.callback(self.proxy.close)
        self.workers = [Machine(folder / f"machine-{number}") for number in range(WORKERS)]
        self.controls = [
            Machine(folder / f"control-{number}", arguments=("--control",)) for number in range(2)
        ]
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.broken: set[str] = set()  # what may not be broken once more
        self.outages: list[tuple[float, float]] = []  # when checkpoints could not be stored
        self.violations: list[str] = []
        self.poison: list[str] = []
        self.seen: dict[str, tuple[int, int]] = {}  # job -> attempt, and how far it was
        self.faults: Counter[str] = Counter()

    # --- breaking and mending

    def after(self, seconds: float, mend: Callable[[], None]) -> None:
        """Do this so much later."""
        self.later.append((now() + seconds, mend))

    def outage(self, part: str, seconds: float, mend: Callable[[], None]) -> None:
        """A part that checkpoints need is away, and comes back."""
        began = now()
        self.broken.add(part)

        def back() -> None:
            mend()
            self.broken.discard(part)
            self.outages.append((began, now()))

        self.after(seconds, back)

    def mend_everything(self) -> None:
        """Do now what was to be done later."""
        while self.later:
            _, mend = self.later.pop(0)
            mend()

    # --- living on

    def tick(self, *, work: bool) -> None:
        """Mend what is due, start what has ended, submit, and look.

        Args:
            work: whether to submit jobs.
        """
        due = [one for one in self.later if one[0] <= now()]
        self.later = [one for one in self.later if one not in due]
        for _, mend in due:
            mend()
        for machine in [*self.workers, *self.controls]:
            self._keep_alive(machine)
        with suppress(DBAPIError):  # the database may be away, or answer with an error
            self._look()
            if work and len(self.unfinished()) < UNDER_WAY:
                self._submit()

    def _keep_alive(self, machine: Machine) -> None:
        if machine.process is not None and machine.process.poll() is None:
            since = machine.stopping_since
            if since is not None and now() - since > STOP_SECONDS:
                self.violations.append(f"a worker did not stop in {STOP_SECONDS:g} s")
                machine.process.kill()
                machine.stopping_since = now()
            return
        way = {"MIXKD_DATABASE_URL": self.proxy.url, "MIXKD_WORK_DIR": str(machine.work_dir)}
        machine.process = self.cluster.worker(*machine.arguments, ready=False, **SETTINGS, **way)
        machine.frozen, machine.stopping_since = False, None

    def _submit(self) -> None:
        if self.random.random() < 0.05:
            seed = len(self.cluster.expected) + len(self.poison) + 100_000
            self.cluster.scripts.write(seed, ["phase", "distil"], ["signal", int(signal.SIGSEGV)])
            self.poison.append(self.cluster.bench.submit(seed=seed, priority=self.random.randrange(101)))
            return
        self.cluster.train(
            self.random.randrange(10, 120),
            seconds=0.05,
            every=5,
            max_attempts=1000,  # bad luck is not what is tested
            priority=self.random.randrange(101),
        )

    def _look(self) -> None:
        """What a user sees of progress never goes back within an attempt."""
        with self.cluster.sessions() as session:
            rows = session.execute(select(Job.id, Job.fence, Job.progress).where(Job.progress.is_not(None)))
            for job_id, fence, progress in rows:
                before = self.seen.get(job_id, (0, 0))
                seen = fence, int(progress["step"])
                if seen < before:
                    self.violations.append(f"{job_id}: its progress went from {before} back to {seen}")
                self.seen[job_id] = seen

    def jobs(self) -> list[Job]:
        """All jobs as they are."""
        with self.cluster.sessions() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def unfinished(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self.jobs() if job.status not in FINAL]


@contextmanager
def made(folder: Path, random_: random.Random) -> Iterator[World]:
    """A world in a folder of its own; nothing is left of it."""
    folder.mkdir(mode=0o711)
    folder.chmod(0o711)  # as root, Postgres's account passes through
    try:
        with ExitStack() as stack:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))  # the logs, which a test's reader would want
            yield World(folder, stack, random_)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
