"""What a job's page shows that the API's views do not say outright: steps, wishes, words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy.orm import Session

from api.schemas.jobs import AttemptView, EventView, JobView, StudentView
from core.jobs import service
from core.jobs.states import FINAL, JobStatus
from mixkd.contract.messages import Phase
from mixkd.contract.spec import DistilSpec

_TRAINING = ("teach", "distil", "baselines")


@dataclass(frozen=True)
class Step:
    """A phase of a job, as the stepper shows it."""

    name: Phase
    state: Literal["done", "now", "failed", "stopped", "ahead"]
    seconds: float | None


@dataclass(frozen=True)
class Wish:
    """A button: what it asks of the job, and how."""

    name: str  # as in the API's path
    label: str
    explained: str
    confirm: str | None = None


_HERE: dict[JobStatus, Literal["now", "failed"]] = {JobStatus.RUNNING: "now", JobStatus.FAILED: "failed"}

_WISHES = {
    "pause": Wish("pause", "Pause", "It writes a checkpoint and frees its worker."),
    "resume": Wish("resume", "Resume", "It is queued, and goes on from its last checkpoint."),
    "finish": Wish("finish", "Finish now", "The training under way stops and counts with its best weights."),
    "retry": Wish("retry", "Retry", "It is queued again, and goes on from its last checkpoint."),
    "cancel": Wish("cancel", "Cancel", "The job ends.", "End this job?"),
}


def wishes(job: JobView) -> list[Wish]:
    """What its owner may ask of a job as it is now."""
    return [_WISHES[name] for name in _possible(job)]


def _possible(job: JobView) -> Iterator[str]:
    if job.status in (JobStatus.FAILED, JobStatus.CANCELLED):
        yield "retry"
    if job.status in FINAL or job.cancel_requested_at:
        return
    running = job.status == JobStatus.RUNNING
    if running and job.phase in _TRAINING and not job.finish_requested_at:
        yield "finish"
    yield "resume" if job.status == JobStatus.PAUSED or job.pause_requested_at else "pause"
    yield "cancel"


def state(job: JobView) -> str:
    """A job's state in words, with what was asked of it meanwhile."""
    if job.status == JobStatus.QUEUED:
        if job.not_before is not None:
            return "queued, tried again soon"
        return f"queued, number {job.queue_position}" if job.queue_position else "queued"
    if job.status == JobStatus.RUNNING:
        if job.cancel_requested_at:
            return "cancelling"
        if job.pause_requested_at:
            return "pausing"
        if job.finish_requested_at:
            return "finishing"
    return job.status


def student(recipe: DistilSpec) -> str:
    """Which student a recipe asks for, in a few words."""
    spec = recipe.student
    layers = spec.layers
    if layers is None:
        return "3 layers" if spec.init in ("teacher", "origin") else "a given encoder"
    number = layers if isinstance(layers, int) else len(layers)
    return f"{number} layer{'s' if number != 1 else ''}"


def steps(job: JobView, attempts: Sequence[AttemptView]) -> list[Step]:
    """The phases that this job goes through, as far as it is known, and where it is."""
    seconds: dict[str, float] = attempts[-1].phase_seconds if attempts else {}
    succeeded = job.status == JobStatus.SUCCEEDED
    shown: list[Step] = []
    for phase in get_args(Phase):
        met = phase in seconds or phase == job.phase
        if not met and (phase == "augment" or (phase == "baselines" and not job.recipe.baselines)):
            continue
        if phase == job.phase and not succeeded:
            shown.append(Step(phase, _HERE.get(job.status, "stopped"), seconds.get(phase)))
        elif phase in seconds or succeeded:
            shown.append(Step(phase, "done", seconds.get(phase)))
        else:
            shown.append(Step(phase, "ahead", None))
    return shown


def percent(job: JobView) -> float | None:
    """How far the present phase is, 0 to 100; None: it has no countable steps, or the job does not run."""
    progress = job.progress
    if job.status != JobStatus.RUNNING or progress is None or not progress.steps:
        return None
    return 100 * progress.step / progress.steps


def told(event: EventView) -> str:
    """An event in words."""
    data = event.data
    try:
        return _TOLD[event.type].format_map(_Readable(data))
    except KeyError:  # of a newer release
        return event.type.replace("_", " ")


class _Readable(dict[str, Any]):
    """What an event's words are filled in with: names of the code as words."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        named = key in ("cause", "phase", "reason") and isinstance(value, str)
        return value.replace("_", " ") if named else value


_TOLD = {
    "queued": "queued",
    "claimed": "attempt {attempt} begins, by {worker_id}",
    "phase": "phase {phase} begins",
    "note": "{detail}",
    "checkpoint": "checkpoint of {phase} at step {step} is stored",
    "finish_requested": "asked to finish now",
    "finished_early": "{phase} finished early, as asked",
    "pause_requested": "asked to pause",
    "paused": "paused",
    "resumed": "resumed",
    "retried": "queued again, as asked",
    "requeued": "queued again: {reason}",
    "priority": "priority is now {priority}",
    "cancel_requested": "asked to cancel",
    "cancelled": "cancelled",
    "failed": "failed: {cause}",
    "succeeded": "succeeded",
}


@dataclass(frozen=True)
class JobPage:
    """All that a job's page shows but its history.

    Args:
        events: number of the last event.
        student: the student's files; None: there is no student (yet).
        report: the report card, likewise.
    """

    job: JobView
    events: int
    attempts: list[AttemptView]
    student: StudentView | None
    report: dict[str, Any] | None

    @property
    def steps(self) -> list[Step]:
        """The stepper."""
        return steps(self.job, self.attempts)

    @property
    def wishes(self) -> list[Wish]:
        """The buttons."""
        return wishes(self.job)


def job_page(session: Session, owner_id: str, job_id: str) -> JobPage:
    """One job as it is now.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    placed = service.get(session, owner_id, job_id)
    succeeded = placed.job.student_id is not None
    return JobPage(
        job=JobView.of(placed),
        events=placed.job.event_seq,
        attempts=[AttemptView.of(one) for one in service.attempts(session, owner_id, job_id)],
        student=StudentView.of(service.student(session, owner_id, job_id)) if succeeded else None,
        report=placed.job.report,
    )
