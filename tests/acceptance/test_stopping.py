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
    """Start a job that would not end by itself, and wait until it trains; its id."""
    teacher_id = client.models.wait(client.models.register("tiny", f"path:{teacher}").id, timeout=60).id
    dataset_id = client.datasets.upload("words", train=data["train"]).id
    job_id = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS).id
    wait_until_it_trains(client, job_id)
    return job_id


def wait_until_it_trains(client: Client, job_id: str, after: int = 0) -> None:
    for update in client.jobs.stream(job_id, after=after, timeout=120):
        if isinstance(update, Progress) and update.step > 0:
            return
    pytest.fail("the job ended before it trained")


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


def test_after_a_kill_nothing_is_left_and_the_next_start_goes_on(
    start: Start, teacher: Path, data: dict[str, Path], tmp_path: Path
) -> None:
    stack = start(tmp_path / "data", "--model-root", teacher.parent, **IMPATIENT)
    with stack.client() as client:
        job_id = train(client, teacher, data)
        known = list(client.jobs.events(job_id))[-1].seq
    family = stack.family()
    assert len(family) > 8
    stack.process.kill()
    stack.process.wait()
    until_ended(family, 10)

    again = start(tmp_path / "data", "--model-root", teacher.parent, key=stack.key, **IMPATIENT)
    with again.client() as client:
        wait_until_claimed_again(client, job_id, known)
        attempts = list(client.jobs.attempts(job_id))
    assert [attempt.outcome for attempt in attempts] == ["lost", None]


def wait_until_claimed_again(client: Client, job_id: str, after: int) -> None:
    for update in client.jobs.stream(job_id, after=after, timeout=60):
        if not isinstance(update, Progress) and update.type == "claimed":
            return
    pytest.fail("the job was not taken up again")
