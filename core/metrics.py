"""What the service tells Prometheus. Every number is read from the database when it is asked for, so that all
processes of the API say the same and a restart forgets nothing. No owner, job or text is named.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import exists, func, select, text
from sqlalchemy.orm import Session

from core.db import NOW, SessionFactory
from core.jobs.models import Job, JobAttempt, JobEvent
from core.jobs.states import JobStatus
from core.workers import service as workers
from core.workers.models import Worker

_PHASES = text("""
    SELECT key, sum(value::numeric), count(*) FROM job_attempts, jsonb_each_text(phase_seconds)
    GROUP BY key ORDER BY key""")


class ServiceCollector(Collector):
    """Asks the database at every scrape.

    Args:
        lives_seconds: a worker that has not reported for so long is counted no more.
    """

    def __init__(self, sessions: SessionFactory, lives_seconds: float) -> None:
        self._sessions = sessions
        self._lives_seconds = lives_seconds

    def collect(self) -> Iterator[Metric]:
        with self._sessions() as session:
            yield from jobs(session)
            yield from queue(session)
            yield from attempts(session)
            yield from leases(session)
            yield from checkpoints(session)
            yield from fleet(session, self._lives_seconds)


def jobs(session: Session) -> Iterator[Metric]:
    """How many jobs are in each state."""
    family = GaugeMetricFamily("mixkd_jobs", "Jobs by state", labels=["status"])
    counts: dict[str, int] = dict.fromkeys(JobStatus, 0)
    counts |= {
        row[0]: row[1] for row in session.execute(select(Job.status, func.count()).group_by(Job.status))
    }
    for status, count in counts.items():
        family.add_metric([str(status)], count)
    yield family


def queue(session: Session) -> Iterator[Metric]:
    """How many jobs wait for each kind of device, and how long the oldest has."""
    depth = GaugeMetricFamily(
        "mixkd_queue_depth", "Queued jobs by the device that they ask for", labels=["device"]
    )
    age = GaugeMetricFamily(
        "mixkd_queue_oldest_seconds", "How long the oldest queued job has waited", labels=["device"]
    )
    waited = func.extract("epoch", func.clock_timestamp() - func.min(Job.queued_at))
    query = (
        select(Job.device, func.count(), waited).where(Job.status == JobStatus.QUEUED).group_by(Job.device)
    )
    found = {device: (count, float(seconds)) for device, count, seconds in session.execute(query)}
    for device in ("any", "cpu", "gpu"):
        count, seconds = found.get(device, (0, 0.0))
        depth.add_metric([device], count)
        age.add_metric([device], seconds)
    yield depth
    yield age


def attempts(session: Session) -> Iterator[Metric]:
    """How attempts ended and why, and where their time went."""
    ended = CounterMetricFamily(
        "mixkd_attempts", "Ended attempts by outcome and cause", labels=["outcome", "cause"]
    )
    query = (
        select(JobAttempt.outcome, func.coalesce(JobAttempt.cause, ""), func.count())
        .where(JobAttempt.outcome.is_not(None))
        .group_by(JobAttempt.outcome, JobAttempt.cause)
    )
    for outcome, cause, count in session.execute(query):
        ended.add_metric([str(outcome), cause], count)
    yield ended

    spent = CounterMetricFamily(
        "mixkd_phase_seconds", "Time that attempts spent in each phase", labels=["phase"]
    )
    entered = CounterMetricFamily("mixkd_phases", "Phases that attempts have gone through", labels=["phase"])
    for name, total, count in session.execute(_PHASES):
        spent.add_metric([name], float(total))
        entered.add_metric([name], count)
    yield spent
    yield entered


def leases(session: Session) -> Iterator[Metric]:
    """How often workers renewed a lease, and lost one."""
    renewed, lost = session.execute(
        select(func.coalesce(func.sum(Worker.renewals), 0), func.coalesce(func.sum(Worker.leases_lost), 0))
    ).one()
    yield CounterMetricFamily("mixkd_lease_renewals", "Renewed leases", value=renewed)
    yield CounterMetricFamily("mixkd_leases_lost", "Leases that ran out", value=lost)
    overdue = select(func.count()).where(Job.status == JobStatus.RUNNING, Job.lease_expires_at < NOW)
    yield GaugeMetricFamily(
        "mixkd_leases_expired",
        "Running jobs whose lease has run out and that nobody has taken up yet",
        value=session.scalars(overdue).one(),
    )


def checkpoints(session: Session) -> Iterator[Metric]:
    """How much work the loss of a machine would cost at most; reads the last events of running jobs."""
    newest = (
        select(JobEvent.at)
        .where(JobEvent.job_id == Job.id, JobEvent.type == "checkpoint")
        .order_by(JobEvent.seq.desc())
        .limit(1)
        .correlate(Job)
        .scalar_subquery()
    )
    since = func.greatest(newest, JobAttempt.started_at)  # without a checkpoint it is NULL, and left out
    query = (
        select(func.extract("epoch", func.max(func.clock_timestamp() - since)))
        .select_from(Job)
        .join(JobAttempt, (JobAttempt.job_id == Job.id) & (JobAttempt.number == Job.fence))
        .where(Job.status == JobStatus.RUNNING)
    )
    yield GaugeMetricFamily(
        "mixkd_checkpoint_oldest_seconds",
        "Longest time since a running job stored a checkpoint, or began",
        value=float(session.scalar(query) or 0),
    )


def fleet(session: Session, lives_seconds: float) -> Iterator[Metric]:
    """The workers that live, whether they work, and what their GPUs do."""
    family = GaugeMetricFamily("mixkd_workers", "Workers that live", labels=["kind", "state"])
    busy = exists().where(Job.worker_id == Worker.id, Job.status == JobStatus.RUNNING)
    counts = {(kind, state): 0 for kind in ("cpu", "gpu") for state in ("busy", "idle")}
    use: list[tuple[str, Any]] = []
    for worker, works in session.execute(select(Worker, busy).where(workers.lives(lives_seconds))):
        counts["gpu" if worker.gpus else "cpu", "busy" if works else "idle"] += 1
        use += [(worker.hostname, gpu) for gpu in enumerate(worker.gpu_use or [])]
    for (kind, state), count in counts.items():
        family.add_metric([kind, state], count)
    yield family

    share = GaugeMetricFamily(
        "mixkd_gpu_busy_ratio", "Share of the time that a GPU works", labels=["host", "gpu"]
    )
    used = GaugeMetricFamily("mixkd_gpu_memory_used_bytes", "Memory of a GPU in use", labels=["host", "gpu"])
    total = GaugeMetricFamily("mixkd_gpu_memory_bytes", "Memory of a GPU", labels=["host", "gpu"])
    for (host, number), gpu in {(host, index): gpu for host, (index, gpu) in use}.items():
        for metric, name in ((share, "busy"), (used, "used"), (total, "total")):
            metric.add_metric([host, str(number)], float(gpu[name]))
    yield from (share, used, total)
