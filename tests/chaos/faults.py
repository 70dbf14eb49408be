"""The faults. Each breaks something if it can just now, says so, and leaves behind how it is mended."""

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import psutil
import redis
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from core.errors import MixkdError
from core.jobs import wishes
from core.jobs.states import FINAL, JobStatus
from core.queue import Queue
from tests.chaos.world import Machine, World, now
from tests.support.cluster import Server

Fault = Callable[[World], bool]
FAULTS: dict[str, Fault] = {}


def fault(work: Fault) -> Fault:
    """One of the faults; its name in the tally is the function's."""
    FAULTS[work.__name__.replace("_", " ")] = work
    return work


def _one_up(world: World) -> Machine | None:
    up = [machine for machine in world.workers if machine.up]
    return world.random.choice(up) if up else None


def _signal_trainer(world: World, number: signal.Signals) -> psutil.Process | None:
    trainers = [one for machine in world.workers for one in machine.trainers()]
    if not trainers:
        return None
    trainer = world.random.choice(trainers)
    with suppress(psutil.NoSuchProcess):
        trainer.send_signal(number)
        return trainer
    return None


# --- trainers


@fault
def trainer_killed(world: World) -> bool:
    return _signal_trainer(world, signal.SIGKILL) is not None


@fault
def trainer_crashed(world: World) -> bool:
    return _signal_trainer(world, signal.SIGSEGV) is not None


@fault
def trainer_frozen(world: World) -> bool:
    """It goes on in time, or is ended as one that hangs."""
    trainer = _signal_trainer(world, signal.SIGSTOP)
    if trainer is None:
        return False
    world.outage(f"trainer {trainer.pid}", world.random.uniform(0.5, 8), lambda: _continue([trainer]))
    return True


# --- workers and machines


@fault
def worker_killed(world: World) -> bool:
    machine = _one_up(world)
    if machine is None or machine.process is None:
        return False
    machine.process.kill()
    return True


@fault
def machine_lost(world: World) -> bool:
    """With its disk."""
    machine = _one_up(world)
    if machine is None or machine.process is None:
        return False
    trainers = machine.trainers()
    machine.process.kill()
    for trainer in trainers:
        with suppress(psutil.NoSuchProcess):
            trainer.kill()
    machine.process.wait()
    shutil.rmtree(machine.work_dir, ignore_errors=True)
    return True


@fault
def worker_frozen(world: World) -> bool:
    """Sometimes past its lease, while its trainer runs on."""
    machine = _one_up(world)
    if machine is None or machine.process is None:
        return False
    machine.process.send_signal(signal.SIGSTOP)
    return _thaw_later(world, machine, [])


@fault
def machine_frozen(world: World) -> bool:
    machine = _one_up(world)
    if machine is None or machine.process is None:
        return False
    machine.process.send_signal(signal.SIGSTOP)
    trainers = machine.trainers()
    for trainer in trainers:
        with suppress(psutil.NoSuchProcess):
            trainer.suspend()
    return _thaw_later(world, machine, trainers)


def _thaw_later(world: World, machine: Machine, trainers: list[psutil.Process]) -> bool:
    process = machine.process
    assert process is not None
    machine.frozen = True

    def thaw() -> None:
        _continue(trainers)
        process.send_signal(signal.SIGCONT)
        machine.frozen = False

    world.outage(f"worker {process.pid}", world.random.uniform(0.5, 9), thaw)
    return True


@fault
def worker_stopped(world: World) -> bool:
    """SIGTERM; it has to end within its grace."""
    machine = _one_up(world)
    if machine is None or machine.process is None:
        return False
    machine.process.terminate()
    machine.stopping_since = now()
    return True


@fault
def all_workers_stopped(world: World) -> bool:
    """A rolling restart."""
    for number, machine in enumerate(world.workers):
        world.after(2.0 * number, partial(_stop, machine))
    return True


def _stop(machine: Machine) -> None:
    if machine.up and machine.process is not None:
        machine.process.terminate()
        machine.stopping_since = now()


@fault
def reconciler_killed(world: World) -> bool:
    machine = world.random.choice(world.controls)
    if machine.process is None:
        return False
    machine.process.kill()
    return True


def _continue(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


# --- the broker


@fault
def broker_killed(world: World) -> bool:
    return _away(world, "broker", world.cluster.broker, world.random.uniform(0, 4))


@fault
def broker_wiped(world: World) -> bool:
    with suppress(redis.RedisError), _broker(world) as broker:
        broker.flushall()
        return True
    return False


@fault
def broker_frozen(world: World) -> bool:
    """Connections stay open, and nobody answers."""
    if "broker" in world.broken:
        return False
    world.cluster.broker.signal(signal.SIGSTOP)
    world.outage("broker", world.random.uniform(1, 6), lambda: world.cluster.broker.signal(signal.SIGCONT))
    return True


@fault
def messages_tripled(world: World) -> bool:
    if "broker" in world.broken:
        return False
    queue = Queue(world.cluster.broker.server.url)
    for _ in range(9):
        queue.wake("cpu")
    return True


def _broker(world: World) -> "redis.Redis":
    path = world.cluster.broker.server.url.removeprefix("redis+socket://")
    return redis.Redis(unix_socket_path=path, socket_timeout=1)


def _away(world: World, part: str, server: Server, seconds: float) -> bool:
    if part in world.broken:
        return False
    server.kill()
    world.outage(part, seconds, server.start)
    return True


# --- the database


@fault
def database_killed(world: World) -> bool:
    return _away(world, "database", world.cluster.postgres, world.random.uniform(0, 5))


@fault
def database_backend_killed(world: World) -> bool:
    """Postgres ends every connection and recovers by itself."""
    process = world.cluster.postgres.process
    if "database" in world.broken or process is None:
        return False
    backends = [one for one in psutil.Process(process.pid).children() if "mixkd" in " ".join(one.cmdline())]
    if not backends:
        return False
    world.random.choice(backends).kill()
    world.outage("database", 2.0, lambda: None)
    return True


@fault
def commits_unanswered(world: World) -> bool:
    """They happen, but the connection ends before the answer."""
    if "database" in world.broken:
        return False
    world.proxy.lose(world.random.randrange(1, 6))
    return True


@fault
def database_half_open(world: World) -> bool:
    """Nothing passes and no connection ends; then all do."""
    if "database" in world.broken:
        return False

    def end() -> None:
        world.proxy.silent = False
        world.proxy.drop()

    world.proxy.silent = True
    world.outage("database", world.random.uniform(0.5, 6), end)
    return True


# --- storage


@fault
def storage_away(world: World) -> bool:
    """Its folder is gone, and cannot be made again."""
    if "storage" in world.broken:
        return False
    storage, aside = world.cluster.folder / "storage", world.cluster.folder / "storage.away"
    storage.rename(aside)
    storage.touch()

    def back() -> None:
        storage.unlink()
        aside.rename(storage)

    world.outage("storage", world.random.uniform(0.5, 6), back)
    return True


# --- users


@fault
def a_users_wish(world: World) -> bool:
    """To cancel, pause, resume, finish, retry, or change a priority: whatever the job allows just now."""
    cluster = world.cluster
    wish = world.random.choice(
        [wishes.cancel, wishes.pause, wishes.resume, wishes.resume, wishes.finish, wishes.retry, prioritise]
    )
    with suppress(DBAPIError, MixkdError):
        wanted = {JobStatus.FAILED, JobStatus.CANCELLED} if wish is wishes.retry else set(JobStatus) - FINAL
        jobs = [job.id for job in world.jobs() if job.status in wanted and job.id in cluster.expected]
        if jobs:
            with cluster.sessions.begin() as session:
                wish(session, cluster.bench.owner_id, world.random.choice(jobs))
            return True
    return False


def prioritise(session: Session, owner_id: str, job_id: str) -> object:
    return wishes.prioritise(session, owner_id, job_id, os.urandom(1)[0] % 101)
