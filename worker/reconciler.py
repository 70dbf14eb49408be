"""Makes up for what went missing: dead workers, lost messages, interrupted imports.

Every step may be done twice, or by two reconcilers at once.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial

from core.config import Settings
from core.datasets import service as datasets
from core.db import SessionFactory
from core.jobs import ends, order
from core.log import bound
from core.models import service as models
from core.queue import Queue

Hint = Callable[[], bool]

log = logging.getLogger(__name__)


def reconcile(sessions: SessionFactory, queue: Queue, settings: Settings) -> None:
    """Do everything once; what fails keeps nothing else from being done.

    A broker that hangs costs seconds a hint, which the leases wait for: after the first that could not be
    sent, the others have time until the next round.
    """
    hints: list[Hint] = []
    steps: dict[str, Callable[[], object]] = {
        "expiring leases": lambda: expire_leases(sessions),
        "ending what is overdue": lambda: end_overdue(sessions),
        "waking workers": lambda: hints.extend(wakes(sessions, queue, settings)),
        "resuming imports": lambda: hints.extend(imports(sessions, queue)),
        "sending hints": lambda: all(send() for send in hints),
    }
    for name, step in steps.items():
        try:
            step()
        except Exception:
            log.exception("%s failed; the next round tries again", name)


def expire_leases(sessions: SessionFactory) -> None:
    """Take their jobs away from workers that stopped renewing."""
    while True:
        with sessions.begin() as session:
            ended = ends.expire_leases(session)
        for job_id, status in ended:
            with bound(job_id=job_id):
                log.warning("its worker is lost; it is %s now", status)
        if not ended:
            return


def end_overdue(sessions: SessionFactory) -> None:
    """Fail the jobs that wait past their deadline."""
    while True:
        with sessions.begin() as session:
            ended = ends.fail_overdue(session)
        for job_id in ended:
            with bound(job_id=job_id):
                log.info("its deadline has passed")
        if not ended:
            return


def wakes(sessions: SessionFactory, queue: Queue, settings: Settings) -> Iterator[Hint]:
    """A hint for each idle worker that a queued job could have.

    A hint goes to any worker of a kind. So the idle ones get one each, whichever of them fits the job.
    """
    with sessions() as session:
        idle = order.idle(session, seen_within_seconds=settings.lease_seconds)
        wanted = [worker.gpus > 0 for worker in idle if order.waiting_for(session, worker)]
        kinds = {on_gpu: sum((worker.gpus > 0) == on_gpu for worker in idle) for on_gpu in set(wanted)}
    for on_gpu, count in kinds.items():
        yield from [partial(queue.wake, "gpu" if on_gpu else "cpu")] * count


def imports(sessions: SessionFactory, queue: Queue) -> Iterator[Hint]:
    """A hint for each import that is not decided; one that is under way refuses to run twice."""
    with sessions() as session:
        waiting_datasets = datasets.importing(session)
        waiting_models = models.importing(session)
    yield from [partial(queue.import_dataset, dataset_id) for dataset_id in waiting_datasets]
    yield from [partial(queue.import_model, model_id) for model_id in waiting_models]
