"""Jobs from submission to their end, through the whole stack."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mixkd_client import Client, Event, JobCancelled, JobFailed, NotFound, Progress
from tests.support.stack import Stack
from tests.support.words import ENDLESS, QUICK, make_teacher

CLASSIFY = """
import json, sys
from transformers import pipeline
print(json.dumps([a["label"] for a in pipeline("text-classification", model=sys.argv[1])(sys.argv[2:])]))
assert not {"mixkd", "core"} & sys.modules.keys()
"""


def test_a_job_leads_to_a_student_that_works_without_us(
    client: Client, teacher_id: str, dataset_id: str, tmp_path: Path
) -> None:
    job = client.jobs.create(teacher_id, dataset_id, recipe=QUICK, name="the first")
    seen: list[Event | Progress] = []
    done = client.jobs.wait(job.id, on_update=seen.append, timeout=120)

    assert done.status == "succeeded"
    assert done.student_id is not None
    events = [update for update in seen if isinstance(update, Event)]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (events[0].type, events[1].type, events[-1].type) == ("queued", "claimed", "succeeded")
    phases = [event.data["phase"] for event in events if event.type == "phase"]
    assert phases == ["prepare", "teach", "distil", "evaluate", "export", "publish"]
    (attempt,) = client.jobs.attempts(job.id)
    assert attempt.outcome == "succeeded"
    assert {metric.phase for metric in client.jobs.metrics(job.id)} >= {"teach", "distil"}

    report = client.jobs.report(job.id)
    assert report["teacher"]["layers"] == 2
    assert report["student"]["layers"] == 1
    assert report["sets"]["test"]["teacher"]["scores"]["accuracy"]["value"] > 0.9
    assert report["sets"]["test"]["student"]["scores"]["accuracy"]["value"] > 0.9

    folder = client.jobs.download_student(job.id, tmp_path / "student")
    run = subprocess.run(
        [sys.executable, "-I", "-c", CLASSIFY, folder, "the cat is here", "what is blue", "a two of three"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == ["animal", "colour", "number"]


def test_a_running_job_is_cancelled_within_ten_seconds(
    client: Client, teacher_id: str, dataset_id: str
) -> None:
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS)
    asked: list[float] = []

    def cancel_once_it_trains(update: Event | Progress) -> None:
        if isinstance(update, Progress) and update.step > 0 and not asked:
            asked.append(time.monotonic())
            client.jobs.cancel(job.id)

    with pytest.raises(JobCancelled):
        client.jobs.wait(job.id, on_update=cancel_once_it_trains, timeout=120)
    assert time.monotonic() - asked[0] < 10
    with pytest.raises(NotFound):
        client.jobs.student(job.id)


def test_a_teacher_whose_loss_is_not_a_number_fails_the_job_as_diverged(
    client: Client, stack: Stack, dataset_id: str, roots: Path
) -> None:
    folder = make_teacher(roots / "exploding", labels=["animal", "colour", "number"], scale=float("inf"))
    teacher = client.models.wait(client.models.register("exploding", f"path:{folder}").id, timeout=60)
    job = client.jobs.create(teacher.id, dataset_id, recipe=QUICK)
    with pytest.raises(JobFailed) as failed:
        client.jobs.wait(job.id, timeout=120)
    failure = failed.value.job.failure
    assert failure is not None
    assert failure.cause == "diverged"
    assert failure.detail
    assert not list((stack.data_dir / "storage" / "jobs").glob(f"{job.id}/**/*.*"))
    with pytest.raises(NotFound):
        client.jobs.student(job.id)
