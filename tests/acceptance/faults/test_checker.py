"""The checker of histories: it accepts what is right, and sees each thing that may be wrong."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from core.jobs.models import Job, JobAttempt, JobEvent
from core.models.models import Model
from core.storage import Storage, set_up
from tests.chaos.verdict import violations_of_losses
from tests.support.history import (
    Expected,
    Step,
    resumed_from,
    steps,
    violations_of_attempts,
    violations_of_curve,
    violations_of_events,
    violations_of_steps,
    violations_of_student,
)
from tests.support.small_training import HISTORY, value_after


def made(attempt: int, first: int, last: int, at: float) -> list[Step]:
    """Steps of one second each, from `at` on."""
    return [
        Step("job", attempt, 1, step, at + step - first, at + step - first + 1)
        for step in range(first, last + 1)
    ]


def job(status: str = "succeeded", **columns: Any) -> Job:
    return Job(id="job", status=status, **{"event_seq": 4, "fence": 2} | columns)


def events(*types: str) -> list[JobEvent]:
    return [JobEvent(job_id="job", seq=number, type=one, data={}) for number, one in enumerate(types, 1)]


RESUMED = {("job", 2): 5}


@pytest.mark.parametrize(
    "history",
    [
        made(1, 1, 7, at=0) + made(2, 6, 10, at=20),
        made(1, 1, 7, at=0) + made(2, 6, 10, at=6.5),  # one step in flight
    ],
)
def test_right_steps_are_right(history: list[Step]) -> None:
    assert list(violations_of_steps(history, RESUMED)) == []


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (made(1, 1, 7, at=0) + made(2, 6, 10, at=5.5), "made 2 steps beside attempt 2"),
        (made(1, 1, 7, at=0) + made(2, 1, 10, at=20), "began with step 1, not after 5"),
        (made(1, 1, 7, at=0) + made(2, 8, 10, at=20), "began with step 8, not after 5"),
        (made(1, 1, 3, at=0) + made(1, 5, 7, at=3), "did not make its steps in order"),
        (made(1, 1, 3, at=0) + made(1, 3, 4, at=3), "did not make its steps in order"),
    ],
)
def test_wrong_steps_are_seen(history: list[Step], said: str) -> None:
    [found, *_] = violations_of_steps(history, RESUMED)
    assert said in found


@pytest.mark.parametrize(
    ("types", "columns"),
    [
        (["queued", "claimed", "requeued", "claimed", "succeeded"], {}),
        (["queued", "claimed", "pause_requested", "resumed", "succeeded"], {}),
        (["queued", "claimed", "paused", "resumed", "claimed", "failed"], {"status": "failed"}),
        (["queued", "claimed", "cancelled", "retried", "claimed", "succeeded"], {}),
    ],
)
def test_right_events_are_right(types: list[str], columns: dict[str, Any]) -> None:
    found = violations_of_events(job(event_seq=len(types), **columns), events(*types))
    assert list(found) == []


@pytest.mark.parametrize(
    ("types", "columns", "said"),
    [
        (["queued", "claimed", "claimed", "succeeded"], {}, "from running to running"),
        (["queued", "succeeded", "claimed", "succeeded"], {}, "from queued to succeeded"),
        (["queued", "claimed", "failed", "succeeded"], {}, "from failed to succeeded"),
        (["claimed", "requeued", "claimed", "succeeded"], {}, "began as running"),
        (["queued", "claimed", "phase", "failed"], {}, "its row says succeeded"),
        (["queued", "claimed", "phase", "failed"], {}, "succeeded 0 times"),
        (["queued", "claimed", "succeeded"], {"event_seq": 4}, "gaps"),
    ],
)
def test_wrong_events_are_seen(types: list[str], columns: dict[str, Any], said: str) -> None:
    found = list(violations_of_events(job(**columns), events(*types)))
    assert any(said in one for one in found), found


def test_a_gap_in_the_middle_is_seen() -> None:
    history = events("queued", "claimed", "phase", "succeeded")
    del history[2]
    assert list(violations_of_events(job(), history)) != []


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        (["failed", "succeeded"], None),
        (["succeeded", "succeeded"], "two attempts succeeded"),
        (["succeeded"], "gaps"),
        ([None, "succeeded"], "of its attempts ended"),
    ],
)
def test_attempts(outcomes: Sequence[str | None], said: str | None) -> None:
    attempts = [
        JobAttempt(job_id="job", number=number, outcome=one) for number, one in enumerate(outcomes, 1)
    ]
    found = list(violations_of_attempts(job(), attempts))
    assert (said in found[0]) if said else found == []


@pytest.mark.parametrize(("curve", "lacks"), [([1, 2, 3], None), ([1, 3], "[2]"), ([2, 3], "[1]")])
def test_the_curve(curve: list[int], lacks: str | None) -> None:
    found = list(violations_of_curve(job(), curve))
    assert (lacks in found[0]) if lacks else found == []


@pytest.mark.parametrize(
    ("goes_on", "outages", "right"),
    [
        (15, [], True),  # 9 of 10 at most
        (14, [], False),
        (0, [], False),
        (0, [(20.0, 22.0)], True),  # storage was away when it died
        (0, [(1.0, 2.0)], False),  # it had been back for long
    ],
)
def test_steps_that_are_lost(goes_on: int, outages: list[tuple[float, float]], *, right: bool) -> None:
    history = made(1, 1, 24, at=0) + made(2, goes_on + 1, 30, at=60)
    found = list(violations_of_losses("job", history, {("job", 2): goes_on}, 10, outages))
    assert (found == []) is right


@pytest.fixture
def student(tmp_path: Path) -> tuple[Storage, Model, Path]:
    set_up(f"file://{tmp_path / 'storage'}")
    storage = Storage(f"file://{tmp_path / 'storage'}")
    (tmp_path / "model").write_text("weights")
    file = storage.put_file("jobs/job/1/student/model", tmp_path / "model")
    files = {"model": {"size": file.size, "sha256": file.sha256}}
    return (
        storage,
        Model(prefix="jobs/job/1/student", files=files),
        tmp_path / "storage" / "jobs/job/1/student/model",
    )


def break_nothing(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("damage", "report", "students", "said"),
    [
        (break_nothing, value_after(5), 1, None),
        (break_nothing, value_after(6), 1, "undisturbed"),
        (break_nothing, value_after(5), 0, "has 0 students"),
        (break_nothing, value_after(5), 2, "has 2 students"),
        (Path.unlink, value_after(5), 1, "missing or damaged"),
        (lambda path: path.write_text("WEIGHTS"), value_after(5), 1, "missing or damaged"),
    ],
)
def test_the_student(
    student: tuple[Storage, Model, Path],
    damage: Callable[[Path], object],
    report: str,
    students: int,
    said: str | None,
) -> None:
    storage, model, path = student
    damage(path)
    ended = job(report={"value": report})
    found = list(
        violations_of_student(ended, [model] * students, storage, Expected(5, 2), finished_early=False)
    )
    assert any(said in one for one in found) if said else found == []


def test_an_attempt_goes_on_from_what_was_stored_before_it_began() -> None:
    history = events("queued", "claimed", "checkpoint", "requeued", "claimed", "checkpoint", "claimed")
    for number, data in ((2, {"attempt": 1}), (3, {"step": 5}), (5, {"attempt": 2}), (6, {"step": 9})):
        history[number - 1].data = data
    history[6].data = {"attempt": 3}
    assert resumed_from("job", history) == {("job", 1): 0, ("job", 2): 5, ("job", 3): 9}


def test_a_line_that_a_kill_cut_short_is_no_step(tmp_path: Path) -> None:
    line = {"job": "job", "attempt": 1, "pid": 1, "step": 1, "began": 0.0, "ended": 1.0}
    (tmp_path / HISTORY).write_text(json.dumps(line) + "\n" + json.dumps(line)[:20])
    assert steps(tmp_path) == [Step(**line)]


def test_the_chain_tells_one_history_from_another() -> None:
    assert len({value_after(number) for number in range(5)}) == 5
