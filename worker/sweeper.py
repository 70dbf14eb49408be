"""Removes what nobody refers to: files of attempts that came to nothing, checkpoints past their time.

Which files count is in the rows, so no clock decides but for how long checkpoints are kept. It is safe beside
workers: a file of an attempt that has ended and that no row names will never be named again, and the prefix
of an attempt that runs is left alone.
"""

import logging
from collections.abc import Iterator
from itertools import groupby

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.accounts.models import IdempotencyKey
from core.config import Settings
from core.db import SessionFactory
from core.jobs.claims import StoredCheckpoint, after
from core.jobs.models import Job
from core.jobs.states import FINAL, JobStatus
from core.models.models import Model
from core.storage import Storage

DAY = 24 * 3600.0
IDEMPOTENCY_DAYS = 7

log = logging.getLogger(__name__)


def sweep(sessions: SessionFactory, storage: Storage, settings: Settings) -> int:
    """Do everything once; how many files were removed."""
    with sessions.begin() as session:
        forget(session, settings)
    removed = 0
    for job_id, keys in groupby(sorted(storage.keys("jobs")), key=lambda key: key.split("/")[1]):
        rubbish = list(_rubbish(sessions, job_id, list(keys)))
        storage.delete(rubbish)
        removed += len(rubbish)
    if removed:
        log.info("removed %d files that no row names", removed)
    return removed


def forget(session: Session, settings: Settings) -> None:
    """Drop what is kept for a while only: checkpoints of ended jobs, the answers to repeated requests."""
    session.execute(
        update(Job)
        .where(
            Job.status.in_(FINAL),
            Job.finished_at < after(-settings.keep_checkpoints_days * DAY),
            Job.checkpoints != [],
        )
        .values(checkpoints=[])
    )
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < after(-IDEMPOTENCY_DAYS * DAY)))


def _rubbish(sessions: SessionFactory, job_id: str, keys: list[str]) -> Iterator[str]:
    """Those of a job's keys that no row names and that no attempt may be writing."""
    with sessions() as session:
        row = session.execute(
            select(Job.status, Job.fence, Job.checkpoints, Model.prefix)
            .outerjoin(Model, Job.student_id == Model.id)
            .where(Job.id == job_id)
        ).one_or_none()
    if row is None:
        log.warning("storage has files of a job that the database does not know: %s", job_id)
        return
    kept = [StoredCheckpoint.model_validate(one) for one in row.checkpoints]
    named = {file.key for one in kept for file in one.files.values()}
    over = row.fence - (row.status == JobStatus.RUNNING)
    student_of = row.prefix and row.prefix.removesuffix("student")
    for key in keys:
        attempt = key.split("/")[2]
        checkpoint = key.split("/")[3] == "checkpoints"
        counts = key in named or (student_of is not None and key.startswith(student_of) and not checkpoint)
        if attempt.isdecimal() and int(attempt) <= over and not counts:
            yield key
