"""Ctrl-C and `kill -9` while a job runs: nothing is left, and the next start takes the job up again."""

import signal
from pathlib import Path

import pytest

from mixkd_client import Client, Progress
from tests.support.stack import Start
from tests.support.waiting import until_ended
from tests.support.words import ENDLESS

# A lost worker is noticed after seconds, not after half a minute.
IMPATIENT = {"MIXKD_LEASE_SECONDS": "4", "MIXKD_HEARTBEAT_SECONDS": "0.5", "MIXKD_RECONCILE_SECONDS": "1"}


def train(client: Client, teacher: Path, data: dict[str, Path]) -> str:
    """Start a job that would not end by itself, and wait until a checkpoint of it is stored; its id."""
    teacher_id = client.models.wait(client.models.register("tiny", f"path:{teacher}").id, timeout=60).id
    dataset_id = client.datasets.upload("words", train=data["train"]).id
    recipe = ENDLESS | {"runtime": {"checkpoint_seconds": 0.2}}
    job_id = client.jobs.create(teacher_id, dataset_id, recipe=recipe).id
    for update in client.jobs.stream(job_id, timeout=120):
        if not isinstance(update, Progress) and update.type == "checkpoint":
            return job_id
    pytest.fail("the job ended before it trained")


def stored_step(client: Client, job_id: str, before: int) -> int:
    """The step of the newest checkpoint that was stored before an event."""
    events = [event for event in client.jobs.events(job_id) if event.seq < before]
    return max(event.data["step"] for event in events if event.type == "checkpoint")


def goes_on_at(client: Client, job_id: str, after: int) -> int:
    """The step that the next attempt shows first."""
    claimed = False
    for update in client.jobs.stream(job_id, after=after, timeout=120):
        if isinstance(update, Progress) and claimed and update.step:
            return update.step
        claimed = claimed or (not isinstance(update, Progress) and update.type == "claimed")
    pytest.fail("the job was not taken up again")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_within_ten_seconds(
    start: Start, teacher: Path, data: dict[str, Path], tmp_path: Path, number: signal.Signals
) -> None:
    stack = start(tmp_path / "data", "--model-root", teacher.parent)
    with stack.client() as client:
        job_id = train(client, teacher, data)
    assert any({"mixkd", "run"} <= set(process.cmdline()) for process in stack.children())
    stack.stop(number)

    again = start(tmp_path / "data", "--model-root", teacher.parent, key=stack.key)
    with again.client() as client:
        assert [job.id for job in client.jobs.list()] == [job_id]
        assert next(client.jobs.attempts(job_id)).outcome == "handed_back"
        [handed_back] = [event.seq for event in client.jobs.events(job_id) if event.type == "requeued"]
        reached = stored_step(client, job_id, before=handed_back)
        assert goes_on_at(client, job_id, after=handed_back) > reached > 0


def test_after_a_kill_nothing_is_left_and_the_next_start_goes_on(
    start: Start, teacher: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    stack = start(tmp_path / "data", "--model-root", teacher.parent, **IMPATIENT)
    with stack.client() as client:
        job_id = train(client, teacher, data)
        known = list(client.jobs.events(job_id))[-1].seq
        reached = stored_step(client, job_id, before=known + 1)
    family = stack.family()
    assert len(family) > 8
    stack.process.kill()
    stack.process.wait()
    until_ended(family, 10)

    again = start(tmp_path / "data", "--model-root", teacher.parent, key=stack.key, **IMPATIENT)
    with again.client() as client:
        assert goes_on_at(client, job_id, after=known) > reached
        attempts = list(client.jobs.attempts(job_id))
    assert [attempt.outcome for attempt in attempts] == ["lost", None]
