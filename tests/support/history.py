"""Judges what happened to jobs: the steps that trainers really made, and what the database says of them.

A violation is a sentence; a history without any kept every promise of docs/reliability.md.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.db import SessionFactory
from core.jobs.models import Job, JobAttempt, JobEvent, JobMetric
from core.jobs.states import FINAL, JobStatus, may_follow
from core.models.models import Model
from core.storage import CorruptFileError, Storage, StoredFile
from tests.support.small_training import HISTORY, value_after

STATES = {  # the event that says that a state was entered
    "queued": JobStatus.QUEUED, "requeued": JobStatus.QUEUED, "resumed": JobStatus.QUEUED,
    "retried": JobStatus.QUEUED, "claimed": JobStatus.RUNNING, "paused": JobStatus.PAUSED,
    "succeeded": JobStatus.SUCCEEDED, "failed": JobStatus.FAILED, "cancelled": JobStatus.CANCELLED,
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One step that a trainer made; times in seconds of CLOCK_BOOTTIME."""

    job: str
    attempt: int
    pid: int
    step: int
    began: float
    ended: float


@dataclass(frozen=True)
class Expected:
    """Of one job: the steps of its training, and those between two checkpoints."""

    steps: int
    every: int


def steps(scripts: Path) -> list[Step]:
    """The steps that were made, in the order of their notes. A line that a kill cut short is none."""
    path = scripts / HISTORY
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(Step(**json.loads(line)))
        except ValueError:
            continue
    return found


def violations_of_steps(made: Sequence[Step], stored: dict[tuple[str, int], int]) -> Iterator[str]:
    """What is wrong with the steps of trainers.

    Args:
        stored: of each job and attempt, the step of the newest checkpoint that it could go on from.
    """
    by_job: dict[str, dict[int, list[Step]]] = defaultdict(lambda: defaultdict(list))
    for one in made:
        by_job[one.job][one.attempt].append(one)
    for job, attempts in by_job.items():
        numbers = sorted(attempts)
        for before, after in pairwise(numbers):
            first = min(step.began for step in attempts[after])
            late = [step for step in attempts[before] if step.ended > first]
            if len(late) > 1:
                yield f"{job}: attempt {before} made {len(late)} steps beside attempt {after}"
        for number in numbers:
            made_here = [step.step for step in attempts[number]]
            if made_here != list(range(made_here[0], made_here[0] + len(made_here))):
                yield f"{job}: attempt {number} did not make its steps in order: {made_here}"
            goes_on = stored.get((job, number), 0)
            if made_here[0] != goes_on + 1:
                yield f"{job}: attempt {number} began with step {made_here[0]}, not after {goes_on}"


def violations_of_events(job: Job, events: Sequence[JobEvent]) -> Iterator[str]:
    """What is wrong with a job's history in the database."""
    if [event.seq for event in events] != list(range(1, job.event_seq + 1)):
        yield f"{job.id}: the numbers of its events have gaps"
    state = None
    for event in events:
        if (after := STATES.get(event.type)) is None or (event.type == "resumed" and state == "running"):
            continue
        if state is not None and not may_follow(state, after):
            yield f"{job.id}: it went from {state} to {after}"
        if state is None and after is not JobStatus.QUEUED:
            yield f"{job.id}: it began as {after}"
        state = after
    if state != job.status:
        yield f"{job.id}: its events end with {state}, its row says {job.status}"
    successes = sum(event.type == "succeeded" for event in events)
    if successes != (job.status == JobStatus.SUCCEEDED):
        yield f"{job.id}: it is {job.status} and succeeded {successes} times"


def violations_of_attempts(job: Job, attempts: Sequence[JobAttempt]) -> Iterator[str]:
    """What is wrong with a job's attempts."""
    if [one.number for one in attempts] != list(range(1, job.fence + 1)):
        yield f"{job.id}: the numbers of its attempts have gaps"
    if any(one.outcome is None for one in attempts) != (job.status == JobStatus.RUNNING):
        yield f"{job.id}: it is {job.status}, and of its attempts ended {[one.outcome for one in attempts]}"
    if sum(one.outcome == "succeeded" for one in attempts) > 1:
        yield f"{job.id}: two attempts succeeded"


def judge(
    sessions: SessionFactory, storage: Storage, scripts: Path, expected: dict[str, Expected]
) -> list[str]:
    """Everything that is wrong with these jobs, which should all have ended by now."""
    found: list[str] = []
    stored: dict[tuple[str, int], int] = {}
    with sessions() as session:
        for job_id, wanted in expected.items():
            job = session.get_one(Job, job_id)
            events = session.scalars(
                select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.seq)
            ).all()
            attempts = session.scalars(
                select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.number)
            ).all()
            students = session.scalars(
                select(Model).where(Model.kind == "student", Model.prefix.startswith(f"jobs/{job_id}/"))
            ).all()
            if job.status not in FINAL:
                found.append(f"{job_id}: it has not ended, it is {job.status}")
            found += violations_of_events(job, events)
            found += violations_of_attempts(job, attempts)
            found += violations_of_student(job, students, storage, wanted, finished_early=any(
                event.type == "finished_early" for event in events))  # fmt: skip
            curve = session.scalars(
                select(JobMetric.step).where(JobMetric.job_id == job_id).order_by(JobMetric.step)
            ).all()
            found += violations_of_curve(job, curve)
            stored |= resumed_from(job_id, events)
    made = [step for step in steps(scripts) if step.job in expected]
    return [*found, *violations_of_steps(made, stored)]


def violations_of_curve(job: Job, curve: Sequence[int]) -> Iterator[str]:
    """What is wrong with a successful job's metrics, one for each step that counts."""
    if job.status == JobStatus.SUCCEEDED and list(curve) != list(range(1, len(curve) + 1)):
        yield f"{job.id}: its curve lacks the steps {sorted(set(range(1, max(curve))) - set(curve))}"


def resumed_from(job_id: str, events: Sequence[JobEvent]) -> dict[tuple[str, int], int]:
    """Of each attempt, the step of the newest checkpoint that was stored before it began."""
    newest, found = 0, {}
    for event in events:
        if event.type == "checkpoint":
            newest = int(event.data["step"])
        elif event.type == "claimed":
            found[job_id, int(event.data["attempt"])] = newest
    return found


def violations_of_student(
    job: Job, students: Sequence[Model], storage: Storage, wanted: Expected, *, finished_early: bool
) -> Iterator[str]:
    """What is wrong with what a job made."""
    if len(students) != (job.status == JobStatus.SUCCEEDED):
        yield f"{job.id}: it is {job.status} and has {len(students)} students"
    report: dict[str, Any] = job.report or {}
    if students and not finished_early and report.get("value") != value_after(wanted.steps):
        yield f"{job.id}: its student is not the one of an undisturbed run"
    for student in students:
        for path, promised in (student.files or {}).items():
            if not _is_there(storage, f"{student.prefix}/{path}", StoredFile(**promised)):
                yield f"{job.id}: {path} of its student is missing or damaged"


def _is_there(storage: Storage, key: str, promised: StoredFile) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        try:
            storage.fetch(key, Path(folder) / "file", promised)
        except (CorruptFileError, FileNotFoundError):
            return False
    return True
