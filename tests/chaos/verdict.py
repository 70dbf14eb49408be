"""What chaos has done and found: violations beyond those of a single fault, and the tally."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import psutil
from sqlalchemy import select

from core.jobs import wishes
from core.jobs.models import JobAttempt, JobEvent
from core.jobs.states import FINAL
from tests.chaos.world import World
from tests.support.history import Step, resumed_from, steps
from tests.support.waiting import alive

ALL_ENDED_SECONDS = 180.0
OUTAGE_BEFORE, OUTAGE_AFTER = 10.0, 8.0  # a checkpoint is stored again after 5 s; a worker stops within 6


def until_all_ended(world: World) -> None:
    """Let nothing break any more, and every job end. The violations are in `world`."""
    cluster = world.cluster
    given_up = time.monotonic() + ALL_ENDED_SECONDS
    while unfinished := world.unfinished():
        resume(world)
        world.tick(work=False)
        if time.monotonic() > given_up:
            stuck = {job.id: job.status for job in unfinished}
            world.violations.append(f"after {ALL_ENDED_SECONDS:g} s of peace these have not ended: {stuck}")
            break
        time.sleep(0.1)
    pids = {
        int(line) for path in cluster.scripts.folder.glob("started-*") for line in path.read_text().split()
    }
    for machine in world.workers:
        if machine.process is not None:
            machine.process.terminate()
    for machine in world.workers:
        if machine.process is not None:
            machine.process.wait(30)
    ours = [pid for pid in pids if alive(pid) and "fake_trainer" in " ".join(psutil.Process(pid).cmdline())]
    if ours:
        world.violations.append(f"trainers that outlived every worker: {ours}")


def resume(world: World) -> None:
    """Nobody waits for a user who is not there."""
    for job in world.unfinished():
        if job.status == "paused" or job.pause_requested_at is not None:
            with world.cluster.sessions.begin() as session:
                wishes.resume(session, world.cluster.bench.owner_id, job.id)


def judge(world: World) -> Iterator[str]:
    """Everything that is wrong."""
    cluster = world.cluster
    yield from world.violations
    yield from cluster.violations()
    for job in world.jobs():
        if job.status not in FINAL:
            yield f"{job.id}: it has not ended, it is {job.status}"
        if job.id in world.poison and (job.status, job.failure_cause) not in (
            ("failed", "internal"),
            ("failed", "worker_lost"),
            ("cancelled", None),
        ):
            yield f"{job.id}: a poison job is {job.status} ({job.failure_cause})"
    made = steps(cluster.scripts.folder)
    with cluster.sessions() as session:
        for job_id, expected in cluster.expected.items():
            events = session.scalars(
                select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
            ).all()
            mine = [step for step in made if step.job == job_id]
            yield from violations_of_losses(
                job_id, mine, resumed_from(job_id, events), 2 * expected.every, world.outages
            )


def violations_of_losses(
    job_id: str,
    made: Sequence[Step],
    goes_on: dict[tuple[str, int], int],
    most: int,
    outages: Iterable[tuple[float, float]],
) -> Iterator[str]:
    """An attempt makes at most so many steps again, unless they could not be stored at the time."""
    for attempt, lost, at in losses(job_id, made, goes_on):
        away = any(began < at + OUTAGE_AFTER and at - OUTAGE_BEFORE < ended for began, ended in outages)
        if lost >= most and not away:
            yield f"{job_id}: attempt {attempt} makes {lost} steps again, without an outage"


def losses(
    job_id: str, made: Sequence[Step], goes_on: dict[tuple[str, int], int]
) -> Iterator[tuple[int, int, float]]:
    """Of each attempt but the first: how many steps of the one before were lost, and when that one ended."""
    last: dict[int, Step] = {}
    for step in made:
        last[step.attempt] = step
    numbers = sorted(last)
    for before, after in pairwise(numbers):
        yield after, last[before].step - goes_on.get((job_id, after), 0), last[before].ended


def tally(world: World, seconds: float, seed: int, violations: Sequence[str]) -> str:
    """What happened, as Markdown."""
    jobs = world.jobs()
    made = steps(world.cluster.scripts.folder)
    with world.cluster.sessions() as session:
        outcomes = Counter(session.scalars(select(JobAttempt.outcome)).all())
    again = defaultdict(set)
    for step in made:
        again[step.job].add(step.step)
    twice = len(made) - sum(len(one) for one in again.values())
    counted = f"{len(jobs)} jobs, {sum(world.faults.values())} faults, {len(violations)} violations"
    lines = [
        f"`make chaos SECONDS={seconds:g} SEED={seed}`: **{counted}.**",
        "",
        "| | |",
        "|-|-|",
        f"| jobs | {_counts(Counter(job.status for job in jobs))} |",
        f"| attempts | {_counts(outcomes)} |",
        f"| steps made | {len(made)}, {twice} of them again |",
        f"| answers to commits lost | {world.proxy.lost} |",
        "",
        "| fault | times |",
        "|-|-|",
        *(f"| {name} | {count} |" for name, count in world.faults.most_common()),
        *(["", "Violations:", "", *(f"- {one}" for one in violations)] if violations else []),
    ]
    return "\n".join(lines) + "\n"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())
