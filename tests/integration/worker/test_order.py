"""Whose turn it is: priority, fairness, age, limits, and what a worker has."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event, Thread, local
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import integers, lists, tuples
from sqlalchemy import func, select, text

from core.accounts.models import Owner
from core.ids import new_id
from core.jobs import claims, ends, order
from core.jobs.models import Job
from core.jobs.states import JobStatus
from core.jobs.transitions import transition
from core.workers import service as workers
from tests.support.jobs import Bench


@pytest.fixture
def owner(bench: Bench) -> Callable[..., str]:
    """Make another owner, who may run so many jobs; their id."""

    def make(max_running: int | None = None) -> str:
        owner_id = new_id("own")
        with bench.sessions.begin() as session:
            session.add(Owner(id=owner_id, name=owner_id, max_running=max_running))
        return owner_id

    return make


def submit(bench: Bench, owner_id: str | None = None, **columns: object) -> str:
    job_id = bench.submit(**columns)
    if owner_id is not None:
        with bench.sessions.begin() as session:
            session.execute(
                text("UPDATE jobs SET owner_id = :owner WHERE id = :id"), {"owner": owner_id, "id": job_id}
            )
    return job_id


def worker(bench: Bench, device: str = "cpu", gpus: int = 0) -> str:
    worker_id = new_id("wrk")
    with bench.sessions.begin() as session:
        workers.register(session, worker_id, hostname="here", pid=1, device=device, gpus=gpus)
    return worker_id


def claim(bench: Bench, worker_id: str | None = None, most_running: int | None = None) -> str | None:
    with bench.sessions.begin() as session:
        found = claims.claim(session, worker_id or worker(bench), uuid4(), 60, most_running=most_running)
    return found.job_id if found else None


def claim_all(bench: Bench) -> list[str]:
    return list(iter(lambda: claim(bench) or "", ""))


def positions(bench: Bench, jobs: list[str]) -> list[str]:
    with bench.sessions() as session:
        places = order.positions(session, jobs)
    return sorted(places, key=lambda job_id: places[job_id])


def test_priority_goes_before_age(bench: Bench) -> None:
    old, urgent, new = submit(bench), submit(bench, priority=90), submit(bench)
    assert claim_all(bench) == [urgent, old, new]


def test_owners_take_turns(bench: Bench, owner: Callable[..., str]) -> None:
    """A thousand jobs of one owner do not shut out another's."""
    many = [submit(bench) for _ in range(4)]
    other = owner()
    late = [submit(bench, other) for _ in range(2)]
    assert claim_all(bench) == [many[0], late[0], many[1], late[1], many[2], many[3]]


def test_a_job_that_failed_waits(bench: Bench) -> None:
    waiting = submit(bench)
    with bench.sessions.begin() as session:
        session.execute(text("UPDATE jobs SET not_before = clock_timestamp() + interval '1 hour'"))
    other = submit(bench)
    assert claim_all(bench) == [other]
    with bench.sessions.begin() as session:
        session.execute(
            text("UPDATE jobs SET not_before = clock_timestamp() WHERE id = :id"), {"id": waiting}
        )
    assert claim(bench) == waiting


def test_an_overdue_job_is_not_begun(bench: Bench) -> None:
    submit(bench, deadline_seconds=60, deadline_at=datetime.now(UTC) - timedelta(seconds=1))
    in_time = submit(bench, deadline_seconds=60, deadline_at=datetime.now(UTC) + timedelta(hours=1))
    assert claim_all(bench) == [in_time]


@pytest.mark.parametrize(
    ("device", "gpus", "fits"),
    [
        ("cpu", 0, ["any", "cpu"]),
        ("NVIDIA H100 80GB HBM3", 1, ["any", "gpu", "h100"]),
        ("NVIDIA H100 80GB HBM3", 4, ["any", "gpu", "h100", "two h100"]),
        ("NVIDIA A100-SXM4-40GB", 8, ["any", "gpu"]),
    ],
)
def test_a_worker_gets_what_it_has_the_devices_for(
    bench: Bench, device: str, gpus: int, fits: list[str]
) -> None:
    wanted = {
        "any": {}, "cpu": {"device": "cpu"}, "gpu": {"device": "gpu"},
        "h100": {"device": "gpu", "gpu_type": "h100"},
        "two h100": {"device": "gpu", "gpu_type": "H100", "gpus": 2},
    }  # fmt: skip
    jobs = {submit(bench, **columns): name for name, columns in wanted.items()}
    mine = worker(bench, device, gpus)
    got = list(iter(lambda: claim(bench, mine) or "", ""))
    assert [jobs[job_id] for job_id in got] == fits
    with bench.sessions() as session:
        assert [one.id for one in order.idle(session, 60)] == []


def test_limits_of_owners(bench: Bench, owner: Callable[..., str]) -> None:
    nobody, one, many = owner(0), owner(1), owner(100)
    jobs = {submit(bench, owner_id): owner_id for owner_id in (nobody, one, one, many, many, many)}
    default = [submit(bench) for _ in range(3)]
    got = list(iter(lambda: claim(bench, most_running=2) or "", ""))
    assert Counter(jobs.get(job_id) for job_id in got) == {one: 1, many: 3, None: 2}
    assert set(got) & set(default)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(queue=lists(tuples(integers(0, 2), integers(0, 2)), min_size=1, max_size=12))
def test_the_place_that_is_shown_is_the_order_of_the_claims(
    bench: Bench, owner: Callable[..., str], queue: list[tuple[int, int]]
) -> None:
    """For any owners and priorities, and whoever runs jobs already."""
    with bench.sessions.begin() as session:
        for job_id in session.scalars(select(Job.id).where(Job.status == "queued")).all():
            transition(session, job_id, JobStatus.QUEUED, JobStatus.CANCELLED, event="cancelled")
    owners = [owner(), owner(), owner()]
    jobs = [submit(bench, owners[whose], priority=priority) for whose, priority in queue]
    shown = positions(bench, jobs)
    assert claim_all(bench) == shown


def test_limits_hold_under_any_number_of_claims_at_once(bench: Bench, owner: Callable[..., str]) -> None:
    limits = {owner(2): 2, owner(3): 3}
    jobs = [submit(bench, owner_id) for owner_id in limits for _ in range(12)]
    machines = [worker(bench) for _ in range(8)]
    worst: Counter[str] = Counter()
    beside, ended = Event(), Event()

    def watch() -> None:
        while not ended.is_set():
            with bench.sessions() as session:
                query = (
                    select(Job.owner_id, func.count()).where(Job.status == "running").group_by(Job.owner_id)
                )
                for owner_id, count in session.execute(query):
                    worst[owner_id] = max(worst[owner_id], count)
                    if count > 1:
                        beside.set()

    def work(worker_id: str) -> list[str]:
        done: list[str] = []
        while len(done) < len(jobs):
            with bench.sessions.begin() as session:
                found = claims.claim(session, worker_id, uuid4(), 60)
            if found is None:
                with bench.sessions() as session:
                    if not session.scalar(select(func.count()).where(Job.status == "queued")):
                        return done
                continue
            done.append(found.job_id)
            beside.wait(30)  # the first jobs are held until some are seen beside each other
            with bench.sessions.begin() as session:
                ends.cancelled(session, found.token)
        return done

    watcher = Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(len(machines)) as pool:
            got = [job_id for done in pool.map(work, machines) for job_id in done]
    finally:
        ended.set()
        watcher.join()
    assert sorted(got) == sorted(jobs), "each once"
    assert all(worst[owner_id] <= limit for owner_id, limit in limits.items()), worst
    assert max(worst.values()) > 1, "they did run beside each other"


def test_claims_never_wait_for_each_other_in_a_circle(
    bench: Bench, owner: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds the row of a limited owner, finds all their jobs held just then, and turns to the other."""
    jobs = [submit(bench, owner(1)), submit(bench, owner(1))]
    both, may_run_one_more = Barrier(2, timeout=5), order._may_run_one_more
    machines, once = [worker(bench), worker(bench)], local()

    def meet(*arguments: Any, **options: Any) -> bool:
        may = may_run_one_more(*arguments, **options)
        if may and not hasattr(once, "met"):
            once.met = True
            both.wait()
        return may

    monkeypatch.setattr(order, "_may_run_one_more", meet)
    with bench.sessions() as user, ThreadPoolExecutor(2) as pool:
        user.execute(select(Job.id).where(Job.id.in_(jobs)).with_for_update())
        assert list(pool.map(lambda machine: claim(bench, machine), machines)) == [None, None]
    monkeypatch.undo()
    assert claim_all(bench) == jobs


def test_idle_workers_are_those_that_have_no_job(bench: Bench) -> None:
    busy, idle = worker(bench), worker(bench)
    submit(bench)
    assert claim(bench, busy) is not None
    with bench.sessions() as session:
        found = order.idle(session, 60)
        assert [one.id for one in found] == [idle]
        assert order.waiting_for(session, found[0]) == 0
    submit(bench, device="gpu")
    submit(bench)
    with bench.sessions() as session:
        assert order.waiting_for(session, order.idle(session, 60)[0]) == 1
