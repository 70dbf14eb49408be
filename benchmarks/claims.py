"""How fast workers claim from a long queue, beside a claim that knows neither fairness nor limits.

    python -m benchmarks.claims [--jobs 10000] [--workers 50] [--rate 100] [--seconds 20] [--rounds 3]
        [--out FILE]

On a real Postgres with its default durability. The yardstick is what every queue in SQL begins with: the
first row by priority and age, `FOR UPDATE SKIP LOCKED`. Both claim at the same rate, from the same queue, in
turn and more than once, for a stall of the machine makes a p99. A claim is timed from the begin of its
transaction to the end of its commit, on a connection that is open already; the process's first claims, which
compile their statements, count.
"""

import argparse
import gc
import os
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import uuid4

from sqlalchemy import create_engine, func, insert, select, text
from sqlalchemy.orm import Session, sessionmaker

from core import embedded, schema
from core.accounts.models import Owner
from core.datasets.models import Dataset
from core.db import SessionFactory
from core.jobs import claims
from core.jobs.models import Job
from core.models.models import Model
from core.workers import service as workers
from mixkd.contract.spec import DistilSpec

OWNERS = 20
LIMIT = 40  # of every fourth owner

PLAIN = text("""
    UPDATE jobs SET status = 'running', fence = fence + 1, lease_token = gen_random_uuid(),
        worker_id = :worker, lease_expires_at = clock_timestamp() + interval '60 s', event_seq = event_seq + 1
    WHERE id = (SELECT id FROM jobs WHERE status = 'queued' ORDER BY priority DESC, queued_at, id
                LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, event_seq, owner_id""")
EVENT = text("""
    INSERT INTO job_events (job_id, seq, owner_id, type, data) VALUES (:id, :seq, :owner, 'claimed', '{}')""")

Claim = Callable[[Session, str], str | None]


@dataclass(frozen=True)
class Result:
    """Of one way to claim: the claims in order of their time, in seconds, and what was wrong."""

    times: list[float]
    doubled: int
    over_limit: int
    late: int  # claims that began later than the rate asked for

    def quantile(self, share: float) -> float:
        """In milliseconds."""
        return self.times[min(int(len(self.times) * share), len(self.times) - 1)] * 1000


def ours(session: Session, worker_id: str) -> str | None:
    """The service's claim: fair, within limits, with its attempt and event."""
    found = claims.claim(session, worker_id, uuid4(), 60)
    return found.job_id if found else None


def plain(session: Session, worker_id: str) -> str | None:
    """The yardstick."""
    row = session.execute(PLAIN, {"worker": worker_id}).one_or_none()
    if row is None:
        return None
    session.execute(EVENT, {"id": row.id, "seq": row.event_seq, "owner": row.owner_id})
    return str(row.id)


def fill(sessions: SessionFactory, jobs: int) -> list[str]:
    """Owners with a model and a data set each, and their queued jobs; the ids of limited owners."""
    numbers = random.Random(0)
    limited = []
    with sessions.begin() as session:
        for number in range(OWNERS):
            owner = f"own_{number}"
            limit = LIMIT if number % 4 == 0 else None
            if limit:
                limited.append(owner)
            session.add(Owner(id=owner, name=owner, max_running=limit))
            session.flush()
            session.add(Model(id=f"mdl_{number}", owner_id=owner, name="m", kind="teacher", source="upload:",
                              status="ready", prefix="m", files={}, info={}))  # fmt: skip
            session.add(Dataset(id=f"ds_{number}", owner_id=owner, name="d", status="ready", format="jsonl",
                                columns={}, files={}, report={}, fingerprint="f"))  # fmt: skip
        session.flush()
        recipe = DistilSpec().model_dump(mode="json")
        rows = []
        for number in range(jobs):
            whose = int(min(numbers.expovariate(0.3), OWNERS - 1))  # the first owners have most of them
            rows.append({
                "id": f"job_{number:06}", "owner_id": f"own_{whose}", "name": "j", "recipe": recipe,
                "teacher_id": f"mdl_{whose}", "dataset_id": f"ds_{whose}",
                "priority": numbers.choice((30, 50, 50, 50, 70)),
            })  # fmt: skip
        session.execute(insert(Job), rows)
    return limited


def measure(
    sessions: SessionFactory, claim: Claim, *, count: int, rate: float, seconds: float, limited: Sequence[str]
) -> Result:
    """Claim at a rate, in as many threads as there are workers, and judge what was claimed."""
    with sessions.begin() as session:
        ids = [f"wrk_{claim.__name__}_{number}" for number in range(count)]
        for worker_id in ids:
            workers.register(session, worker_id, hostname="here", pid=1, device="cpu", gpus=0)
    gc.collect()
    gc.freeze()  # a collection over all the rows that `fill` made stopped every thread for 50 ms
    begin = time.perf_counter() + 2

    def work(number: int) -> tuple[list[float], list[str], int]:
        times: list[float] = []
        got: list[str] = []
        late = 0
        with sessions() as session:
            session.execute(text("SELECT 1"))  # a worker's heartbeat has long since opened a connection
        for turn in range(int(rate * seconds) // count):
            due = begin + (turn * count + number) / rate
            time.sleep(max(due - time.perf_counter(), 0))
            began = time.perf_counter()
            late += began - due > 0.05
            with sessions.begin() as session:
                job_id = claim(session, ids[number])
            times.append(time.perf_counter() - began)
            if job_id is not None:
                got.append(job_id)
        return times, got, late

    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(work, range(count)))
    claimed = Counter(job_id for _, got, _ in done for job_id in got)
    with sessions() as session:
        query = select(Job.owner_id, func.count()).where(Job.status == "running").group_by(Job.owner_id)
        running = {row[0]: row[1] for row in session.execute(query)}
    return Result(
        sorted(seconds for times, _, _ in done for seconds in times),
        sum(times > 1 for times in claimed.values()),
        sum(running.get(owner, 0) > LIMIT for owner in limited) if claim is ours else 0,
        sum(late for _, _, late in done),
    )


def run(jobs: int, count: int, rate: float, seconds: float, rounds: int = 1) -> str:
    """Both ways in turn, on a database each; a table of the rounds, as Markdown."""
    about = (
        f"{jobs} queued jobs of {OWNERS} owners, {count} workers, {rate:g} claims/s for {seconds:g} s; "
        f"{os.cpu_count()} CPUs, {platform.machine()}"
    )
    lines = [
        about,
        "",
        "| claim | n | p50 ms | p99 ms | p99 / yardstick | late | doubled | owners over their limit |",
        "|-|-|-|-|-|-|-|-|",
    ]
    worst = []
    for _ in range(rounds):
        yardstick, found = (_on_a_new_database(claim, jobs, count, rate, seconds) for claim in (plain, ours))
        lines += [
            _row("`SKIP LOCKED` alone (yardstick)", yardstick, yardstick),
            _row("ours", found, yardstick),
        ]
        worst.append(found.quantile(0.99))
    if rounds > 1:
        lines += ["", f"The middle p99 of ours is {median(worst):.1f} ms."]
    return "\n".join(lines) + "\n"


def _on_a_new_database(claim: Claim, jobs: int, count: int, rate: float, seconds: float) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="mixkd-bench-"))
    folder.chmod(0o711)
    try:
        with embedded.postgres(folder) as url:
            engine = create_engine(url, pool_size=count, max_overflow=0)
            schema.migrate(engine)
            sessions = sessionmaker(engine, expire_on_commit=False)
            limited = fill(sessions, jobs)
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("ANALYZE"))
            found = measure(sessions, claim, count=count, rate=rate, seconds=seconds, limited=limited)
            engine.dispose()
            return found
    finally:
        embedded.remove(folder)


def _row(told: str, found: Result, yardstick: Result) -> str:
    ratio = found.quantile(0.99) / yardstick.quantile(0.99)
    numbers = [f"{found.quantile(0.5):.1f}", f"{found.quantile(0.99):.1f}", f"{ratio:.2f}"]
    counts = [str(found.late), str(found.doubled), "-" if found is yardstick else str(found.over_limit)]
    return f"| {' | '.join([told, str(len(found.times)), *numbers, *counts])} |"


def main() -> None:
    """Measure, print, and write to a file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of both ways, in turn")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    table = run(given.jobs, given.workers, given.rate, given.seconds, given.rounds)
    print(table)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
