"""A whole service of real processes that a test may kill, freeze and starve: no part outlives the test."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from pydantic import SecretStr

from core import embedded, schema
from core.config import Settings
from core.db import connect, session_factory
from core.storage import Storage, set_up
from core.workers.models import Worker
from tests.support.fake_trainer import Scripts
from tests.support.history import Expected, judge, steps
from tests.support.jobs import Bench
from tests.support.small_training import HISTORY
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
QUICK = {
    "MIXKD_LEASE_SECONDS": "4",
    "MIXKD_HEARTBEAT_SECONDS": "0.4",
    "MIXKD_RECONCILE_SECONDS": "0.5",
    "MIXKD_CANCEL_GRACE_SECONDS": "2",
    "MIXKD_SHUTDOWN_GRACE_SECONDS": "6",
    "MIXKD_RETRY_SECONDS": "0",
    "MIXKD_STORAGE_PATIENCE_SECONDS": "60",
}
Process = subprocess.Popen[bytes]


@dataclass
class Server:
    """Postgres or Valkey, to be ended and started at will; its files stay."""

    server: embedded.Server
    process: Process | None = None

    def start(self) -> None:
        self.process = self.server.start()
        embedded.wait_until_it_answers(self.server, self.process)

    def kill(self) -> None:
        """SIGKILL, all of it."""
        assert self.process is not None
        family = [
            psutil.Process(self.process.pid),
            *psutil.Process(self.process.pid).children(recursive=True),
        ]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(family, 10)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


class Cluster:
    """The database, the broker and storage; workers are started by the test.

    Args:
        folder: of this cluster alone, open to the database's account.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        data_dir = folder / "data"
        data_dir.mkdir()
        stack.callback(embedded.remove, data_dir)
        self.postgres = Server(stack.enter_context(embedded.postgres_server(data_dir)))
        self.broker = Server(stack.enter_context(embedded.valkey_server(data_dir)))
        stack.callback(self._end)
        self.postgres.start()
        self.broker.start()
        self.settings = Settings(
            database_url=SecretStr(self.postgres.server.url),
            broker_url=SecretStr(self.broker.server.url),
            storage_url=f"file://{folder / 'storage'}",
            work_dir=folder / "work",
        )
        engine = connect(self.settings)
        stack.callback(engine.dispose)
        schema.migrate(engine)
        self.sessions = session_factory(engine)
        set_up(self.settings.storage_url)
        self.storage = Storage(self.settings.storage_url)
        self.bench = Bench(self.sessions, self.storage)
        (folder / "scripts").mkdir()
        self.scripts = Scripts(folder / "scripts")
        self.expected: dict[str, Expected] = {}
        self.processes: list[Process] = []

    def worker(
        self,
        *arguments: str,
        ready: bool = True,
        within: Sequence[str] = (),
        code: Path = ROOT,
        **environment: str,
    ) -> Process:
        """Start a worker; with `--control` the one that reconciles.

        Args:
            within: a command that runs another, such as `ip netns exec NAME`.
            code: where its code lies, for one of another release.
        """
        ours = {
            "MIXKD_DATABASE_URL": self.settings.database_url.get_secret_value(),
            "MIXKD_BROKER_URL": self.settings.broker_url.get_secret_value(),
            "MIXKD_STORAGE_URL": self.settings.storage_url,
            "MIXKD_WORK_DIR": str(self.folder / "work"),
        }
        log = self.folder / f"worker-{len(self.processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *within,
                    sys.executable,
                    "-m",
                    "tests.support.fake_worker",
                    str(self.scripts.folder),
                    *arguments,
                ],
                cwd=code,
                env=os.environ | QUICK | ours | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        if ready:
            until(lambda: b" ready." in log.read_bytes() or process.poll() is not None)
        return process

    def train(self, count: int = 60, seconds: float = 0.05, every: int = 5, **columns: object) -> str:
        """Submit a job that trains so long; its id."""
        seed = len(self.expected) + 1000
        self.scripts.write(
            seed, ["train", count, seconds, every], ["phase", "evaluate"], ["say", {"type": "done"}]
        )
        job_id = self.bench.submit(seed=seed, **columns)
        self.expected[job_id] = Expected(count, every)
        return job_id

    def step(self, job_id: str) -> int:
        """How far a job is, as its user sees it."""
        return (self.bench.job(job_id).progress or {}).get("step", 0)

    def until_stored(self, job_id: str, step: int = 1) -> int:
        """Wait until a checkpoint of at least so many steps is in storage; of how many it is."""

        def newest() -> int:
            checkpoints = self.bench.job(job_id).checkpoints
            return checkpoints[0]["step"] if checkpoints and checkpoints[0]["step"] >= step else 0

        return until(newest, what=f"a checkpoint of {job_id}")

    def until_ended(self, *job_ids: str, seconds: float = 90) -> None:
        """Wait until jobs have ended."""
        final = {"succeeded", "failed", "cancelled"}
        for job_id in job_ids or self.expected:
            until(partial(self.is_in, job_id, *final), seconds, f"{job_id} ends")

    def is_in(self, job_id: str, *states: str) -> bool:
        """Whether a job is in one of these states."""
        return self.bench.job(job_id).status in states

    def violations(self) -> list[str]:
        """Everything that is wrong with the jobs that were submitted by `train`."""
        return judge(self.sessions, self.storage, self.scripts.folder, self.expected)

    def bench_in(self, other: "Cluster") -> Bench:
        """Our owner, teacher and data set, as they are after a restore in another cluster."""
        bench = copy.copy(self.bench)
        bench.sessions, bench.storage = other.sessions, other.storage
        return bench

    def history(self) -> list[str]:
        """The lines that trainers left."""
        return (self.scripts.folder / HISTORY).read_text().splitlines()

    def worker_of(self, job_id: str) -> Process:
        """The process that has a job."""
        with self.sessions() as session:
            worker_id = self.bench.job(job_id).worker_id
            pid = session.get_one(Worker, worker_id).pid
        return next(process for process in self.processes if process.pid == pid)

    def trainer_of(self, job_id: str) -> int:
        """The process that trains it now."""
        return [one.pid for one in steps(self.scripts.folder) if one.job == job_id][-1]

    def _end(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        for server in (self.broker, self.postgres):
            if server.process is not None:
                with suppress(psutil.NoSuchProcess):
                    server.kill()
        for number in range(len(self.processes)):  # shown by pytest when the test has failed
            print((self.folder / f"worker-{number}.log").read_text()[-5000:])
        shutil.rmtree(self.folder / "storage", ignore_errors=True)
