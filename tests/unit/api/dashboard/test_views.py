"""Steps, wishes and words of a job, in every state and with whatever was asked of it."""

from datetime import UTC, datetime
from itertools import product
from typing import Any, get_args

import pytest

from api.dashboard import views
from api.schemas.jobs import AttemptView, EventView, JobView
from core.jobs.states import FINAL, JobStatus
from mixkd.contract.messages import Phase
from mixkd.contract.spec import DistilSpec

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = ("cancel_requested_at", "pause_requested_at", "finish_requested_at")
PHASES = get_args(Phase)


def job(status: str = "queued", **changes: Any) -> JobView:
    """A job as the API shows it."""
    [example] = JobView.model_config["json_schema_extra"]["examples"]
    blank = {"phase": None, "progress": None, "scores": None, "checkpoint": None, "ran_on": None}
    return JobView.model_validate({**example, **blank, "status": status, **changes})


def attempt(**seconds: float) -> AttemptView:
    [example] = AttemptView.model_config["json_schema_extra"]["examples"]
    return AttemptView.model_validate({**example, "phase_seconds": seconds})


def names(one: JobView) -> list[str]:
    return [wish.name for wish in views.wishes(one)]


# --- wishes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "changes", "expected"),
    [
        ("queued", {}, ["pause", "cancel"]),
        ("queued", {"finish_requested_at": NOW}, ["pause", "cancel"]),
        ("paused", {}, ["resume", "cancel"]),
        ("running", {}, ["pause", "cancel"]),
        ("running", {"phase": "prepare"}, ["pause", "cancel"]),
        ("running", {"phase": "teach"}, ["finish", "pause", "cancel"]),
        ("running", {"phase": "distil"}, ["finish", "pause", "cancel"]),
        ("running", {"phase": "baselines"}, ["finish", "pause", "cancel"]),
        ("running", {"phase": "evaluate"}, ["pause", "cancel"]),
        ("running", {"phase": "distil", "pause_requested_at": NOW}, ["finish", "resume", "cancel"]),
        ("running", {"phase": "distil", "finish_requested_at": NOW}, ["pause", "cancel"]),
        ("running", {"phase": "distil", "cancel_requested_at": NOW}, []),
        ("succeeded", {}, []),
        ("failed", {}, ["retry"]),
        ("cancelled", {}, ["retry"]),
        ("cancelled", {"cancel_requested_at": NOW, "phase": "distil"}, ["retry"]),
    ],
)
def test_what_may_be_asked(status, changes, expected):
    assert names(job(status, **changes)) == expected


@pytest.mark.parametrize("status", JobStatus)
def test_nobody_is_offered_what_cannot_be_or_what_was_asked_already(status):
    for phase, *asked in product((None, *PHASES), (None, NOW), (None, NOW), (None, NOW)):
        one = job(status, phase=phase, **dict(zip(ASKED, asked, strict=True)))
        offered = names(one)
        assert len(offered) == len(set(offered))
        assert not {"pause", "resume"} <= set(offered)
        if status in FINAL:
            assert set(offered) <= {"retry"}
        elif one.cancel_requested_at:
            assert offered == []
        else:
            assert offered[-1] == "cancel"
            assert not ("finish" in offered and one.finish_requested_at)
            assert not ("pause" in offered and one.pause_requested_at)
        assert views.state(one)


# --- the state in words --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "changes", "expected"),
    [
        ("queued", {"queue_position": 3}, "queued, number 3"),
        ("queued", {"queue_position": None}, "queued"),
        ("queued", {"queue_position": 1, "not_before": NOW}, "queued, tried again soon"),
        ("running", {}, "running"),
        ("running", {"finish_requested_at": NOW}, "finishing"),
        ("running", {"finish_requested_at": NOW, "pause_requested_at": NOW}, "pausing"),
        ("running", dict.fromkeys(ASKED, NOW), "cancelling"),
        ("paused", {"finish_requested_at": NOW}, "paused"),
        ("succeeded", {}, "succeeded"),
        ("failed", {}, "failed"),
        ("cancelled", {"cancel_requested_at": NOW}, "cancelled"),
    ],
)
def test_the_state_in_words(status, changes, expected):
    assert views.state(job(status, **changes)) == expected


# --- steps ---------------------------------------------------------------------------------------------


def shown(one: JobView, *attempts: AttemptView) -> dict[str, str]:
    return {step.name: step.state for step in views.steps(one, attempts)}


def test_a_job_that_waits_has_all_ahead_and_none_that_it_may_not_need():
    steps = shown(job())
    assert set(steps.values()) == {"ahead"}
    assert list(steps) == [phase for phase in PHASES if phase not in ("augment", "baselines")]
    wanted = DistilSpec.model_validate({"baselines": ["kd"]})
    assert "baselines" in shown(job(recipe=wanted.model_dump()))


def test_the_present_phase_comes_after_those_that_took_time():
    one = job("running", phase="distil")
    steps = views.steps(one, [attempt(prepare=1.0, teach=2.0, augment=3.0)])
    assert [(step.name, step.seconds) for step in steps if step.state == "done"] == [
        (phase, seconds) for phase, seconds in zip(PHASES, (1.0, 2.0, 3.0), strict=False)
    ]
    assert [step.name for step in steps if step.state == "now"] == ["distil"]
    assert {step.state for step in steps[4:]} == {"ahead"}


@pytest.mark.parametrize(("status", "there"), [("failed", "failed"), ("cancelled", "stopped")])
def test_where_a_job_ended_is_told_apart_from_what_it_did_not_reach(status, there):
    steps = shown(job(status, phase="distil"), attempt(prepare=1.0, distil=2.0))
    assert steps["prepare"] == "done"
    assert steps["distil"] == there
    assert steps["export"] == "ahead"


def test_of_a_job_that_succeeded_all_is_done():
    assert set(shown(job("succeeded", phase=PHASES[-1]), attempt(distil=2.0)).values()) == {"done"}


def test_the_newest_attempt_counts():
    steps = shown(job("running", phase="prepare"), attempt(prepare=1.0, distil=2.0), attempt())
    assert (steps["prepare"], steps["distil"]) == ("now", "ahead")


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("phase", [None, *PHASES])
def test_the_steps_are_in_the_order_of_a_run_and_at_most_one_is_now(status, phase):
    steps = views.steps(job(status, phase=phase), [attempt(prepare=1.0)])
    assert [one.name for one in steps] == [name for name in PHASES if name in {one.name for one in steps}]
    assert [one.state for one in steps].count("now") <= (status == JobStatus.RUNNING)
    assert phase is None or phase in {one.name for one in steps}


# --- progress, the student, events ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "progress", "expected"),
    [
        ("running", {"phase": "distil", "step": 25, "steps": 100}, 25),
        ("running", {"phase": "distil", "step": 0, "steps": 100}, 0),
        ("running", {"phase": "distil", "step": 100, "steps": 100}, 100),
        ("running", {"phase": "prepare", "step": 0, "steps": 0}, None),
        ("running", None, None),
        ("failed", {"phase": "distil", "step": 25, "steps": 100}, None),
    ],
)
def test_how_far_it_is(status, progress, expected):
    assert views.percent(job(status, progress=progress)) == expected


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ({}, "3 layers"),
        ({"layers": 1}, "1 layer"),
        ({"layers": 6}, "6 layers"),
        ({"layers": [0, 2, 5, 7]}, "4 layers"),
        ({"layers": [4]}, "1 layer"),
    ],
)
def test_the_student_in_words(student, expected):
    assert views.student(DistilSpec.model_validate({"student": student})) == expected


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("queued", {}, "queued"),
        ("claimed", {"attempt": 2, "worker_id": "wrk_1"}, "attempt 2 begins, by wrk_1"),
        ("phase", {"phase": "distil", "steps": 5}, "phase distil begins"),
        ("note", {"detail": "a {brace} and a_name %s"}, "a {brace} and a_name %s"),
        ("failed", {"cause": "out_of_memory"}, "failed: out of memory"),
        ("requeued", {"reason": "worker_shutdown"}, "queued again: worker shutdown"),
        ("checkpoint", {"phase": "teach", "step": 7}, "checkpoint of teach at step 7 is stored"),
        ("brand_new", {}, "brand new"),
        ("claimed", {}, "claimed"),  # a field that a newer release calls otherwise
    ],
)
def test_an_event_in_words(kind, data, expected):
    assert views.told(EventView(seq=1, at=NOW, type=kind, data=data)) == expected
