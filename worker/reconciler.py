"""Makes up for what went missing: dead workers, lost messages, interrupted imports.

Every step may be done twice, or by two reconcilers at once.
"""

import logging

from sqlalchemy import func, select

from core.config import Settings
from core.datasets import service as datasets
from core.db import SessionFactory
from core.jobs import claims
from core.jobs.models import Job
from core.jobs.states import JobStatus
from core.models import service as models
from core.queue import Queue
from core.workers import service as workers

log = logging.getLogger(__name__)


def reconcile(sessions: SessionFactory, queue: Queue, settings: Settings) -> None:
    """Do everything once."""
    expire_leases(sessions)
    wake_workers(sessions, queue, settings)
    resume_imports(sessions, queue)


def expire_leases(sessions: SessionFactory) -> None:
    """Take their jobs away from workers that stopped renewing."""
    while True:
        with sessions.begin() as session:
            ended = claims.expire_leases(session)
        for job_id, status in ended:
            log.warning("job %s: its worker is lost; it is %s now", job_id, status)
        if not ended:
            return


def wake_workers(sessions: SessionFactory, queue: Queue, settings: Settings) -> None:
    """Send one hint for each idle worker that a queued job could have."""
    with sessions() as session:
        queued = session.scalars(
            select(func.count()).select_from(Job).where(Job.status == JobStatus.QUEUED)
        ).one()
        idle = workers.idle(session, seen_within_seconds=settings.lease_seconds)
    for _ in range(min(queued, idle)):
        queue.wake()


def resume_imports(sessions: SessionFactory, queue: Queue) -> None:
    """Ask again for imports that are not decided; one that is under way refuses to run twice."""
    with sessions() as session:
        waiting_datasets = datasets.importing(session)
        waiting_models = models.importing(session)
    for dataset_id in waiting_datasets:
        queue.import_dataset(dataset_id)
    for model_id in waiting_models:
        queue.import_model(model_id)
