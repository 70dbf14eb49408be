"""The real trainer under the real supervisor, with a model so small that only the machinery takes time."""

import math
import struct
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from core.jobs import wishes
from core.jobs.models import JobMetric
from core.models.models import Model
from core.storage import Storage
from mixkd.contract.spec import DistilSpec
from tests.support.jobs import Bench
from tests.support.running import Running
from tests.support.waiting import alive, until
from worker.trainer_process import TRAINER

Start = Callable[..., Running]

QUICK = {"student": {"layers": 1}, "max_length": 16, "teach": {"epochs": 1}, "distil": {"epochs": 1}}
ENDLESS = QUICK | {"distil": {"epochs": 1000}, "teach": {"epochs": 1000}}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def submit(bench: Bench, recipe: dict[str, object]) -> str:
    return bench.submit(recipe=DistilSpec.model_validate(recipe), max_attempts=1)


def trainers(work: Path) -> list[int]:
    """The processes that train in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(work).encode() in command and b"mixkd" in command and alive(int(process.name)):
            found.append(int(process.name))
    return found


def test_a_student_comes_out(bench: Bench, start: Start) -> None:
    job_id = submit(bench, QUICK)
    start(trainer=TRAINER).join(120)
    job = bench.job(job_id)
    assert job.status == "succeeded", bench.attempts(job_id)[0].log_tail
    assert bench.phases(job_id) == ["prepare", "teach", "distil", "evaluate", "export", "publish"]
    with bench.sessions() as session:
        student = session.get_one(Model, job.student_id)
        phases = set(session.scalars(select(JobMetric.phase)))
    assert (student.info or {})["layers"] == 1
    assert (student.info or {})["labels"] == ["human", "place", "time"]
    assert "model.safetensors" in (student.files or {})
    assert phases >= {"teach", "distil"}


@pytest.mark.parametrize("phase", ["prepare", "teach"])
def test_cancel(bench: Bench, start: Start, tmp_path: Path, phase: str) -> None:
    job_id = submit(bench, ENDLESS)
    running = start(trainer=TRAINER, every=3, lease_seconds=60, cancel_grace_seconds=5)
    until(lambda: phase in bench.phases(job_id) and trainers(tmp_path), 90)
    if phase == "teach":
        until(lambda: bench.job(job_id).progress)
    bench.cancel(job_id)
    until(lambda: bench.job(job_id).status == "cancelled", 10)
    running.join()
    assert trainers(tmp_path) == []


def test_shutdown_stops_it_in_time(bench: Bench, start: Start, tmp_path: Path) -> None:
    job_id = submit(bench, ENDLESS)
    running = start(trainer=TRAINER)
    until(lambda: bench.job(job_id).phase == "teach" and bench.job(job_id).progress, 90)
    running.supervisor.stop()
    running.join(10)
    assert bench.job(job_id).status == "queued"
    assert trainers(tmp_path) == []


def weights(bench: Bench, job_id: str) -> str:
    """The SHA-256 of the student's weights."""
    with bench.sessions() as session:
        student = session.get_one(Model, bench.job(job_id).student_id)
    sha256: str = (student.files or {})["model.safetensors"]["sha256"]
    return sha256


def has_stored(bench: Bench, job_id: str, phase: str) -> bool:
    """Whether there is a checkpoint of a phase."""
    return any(one["phase"] == phase for one in bench.job(job_id).checkpoints)


def test_what_a_worker_hands_back_ends_with_the_same_student(
    bench: Bench, start: Start, tmp_path: Path
) -> None:
    """Stopped in each training and gone on with from storage, in another folder: the same to the bit."""
    recipe = QUICK | {"teach": {"epochs": 3}, "distil": {"epochs": 60}, "runtime": {"checkpoint_seconds": 0}}
    undisturbed = submit(bench, recipe)
    start(trainer=TRAINER).join(120)
    job_id = submit(bench, recipe)
    for phase in ("teach", "distil"):
        running = start(trainer=TRAINER)
        until(partial(has_stored, bench, job_id, phase), 90, phase)
        running.supervisor.stop()
        running.join(20)
        assert bench.job(job_id).status == "queued", f"it ended before it could be stopped in {phase}"
    start(trainer=TRAINER).join(120)
    job = bench.job(job_id)
    assert (job.status, job.fence, job.charged_failures) == ("succeeded", 3, 0)
    assert weights(bench, job_id) == weights(bench, undisturbed)
    assert job.checkpoints == []


def test_a_paused_job_frees_its_worker_and_goes_on_where_it_was(bench: Bench, start: Start) -> None:
    job_id = submit(bench, ENDLESS)
    running = start(trainer=TRAINER)
    until(lambda: bench.job(job_id).phase == "teach" and (bench.job(job_id).progress or {}).get("step"), 90)
    with bench.sessions.begin() as session:
        wishes.pause(session, bench.owner_id, job_id)
    running.join(30)
    job = bench.job(job_id)
    assert (job.status, [one.outcome for one in bench.attempts(job_id)]) == ("paused", ["paused"])
    reached = job.checkpoints[0]["step"]
    assert reached > 0
    with bench.sessions.begin() as session:
        wishes.resume(session, bench.owner_id, job_id)
    again = start(trainer=TRAINER)
    until(lambda: (bench.job(job_id).progress or {}).get("step", 0) > reached, 90)
    again.supervisor.stop()
    again.join(20)
    with bench.sessions() as session:
        steps = session.scalars(select(JobMetric.step).where(JobMetric.phase == "teach")).all()
    assert len(steps) == len(set(steps))


def test_finishing_now_keeps_the_best_and_ends_well(bench: Bench, start: Start) -> None:
    job_id = submit(bench, ENDLESS | {"teach": {"epochs": 1}})
    running = start(trainer=TRAINER)
    until(lambda: bench.job(job_id).phase == "distil" and bench.job(job_id).progress, 90)
    with bench.sessions.begin() as session:
        wishes.finish(session, bench.owner_id, job_id)
    running.join(90)
    job = bench.job(job_id)
    assert (job.status, job.finish_requested_at) == ("succeeded", None)
    assert (job.report or {})["distil"]["stopped"] == "asked"
    types = bench.event_types(job_id)
    assert types.index("finish_requested") < types.index("finished_early") < types.index("succeeded")


def test_a_teacher_of_nan_diverges_and_publishes_nothing(
    bench: Bench, start: Start, storage: Storage, tmp_path: Path
) -> None:
    poisoned(bench, tmp_path)
    job_id = submit(bench, QUICK)
    start(trainer=TRAINER).join(120)
    job = bench.job(job_id)
    assert (job.status, job.failure_cause) == ("failed", "diverged"), job.failure
    assert list(storage.keys(f"jobs/{job_id}")) == []


def poisoned(bench: Bench, folder: Path) -> None:
    """Put a teacher whose every weight is NaN in the place of the bench's."""
    with bench.sessions.begin() as session:
        teacher = session.get_one(Model, bench.teacher_id)
        content = b"".join(bench.storage.read(f"{teacher.prefix}/model.safetensors"))
        header = 8 + int.from_bytes(content[:8], "little")
        numbers = (len(content) - header) // 4
        path = folder / "model.safetensors"
        path.write_bytes(content[:header] + struct.pack(f"<{numbers}f", *[math.nan] * numbers))
        stored = bench.storage.put_file(f"{teacher.prefix}/model.safetensors", path)
        teacher.files = (teacher.files or {}) | {"model.safetensors": asdict(stored)}
