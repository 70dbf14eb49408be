"""How long a worker rests whose attempts fail before their first step."""

import pytest

from core.jobs.ends import Failure
from core.jobs.states import FailureCause
from worker.endings import AttemptFailed, may_be_ours
from worker.halt import Halted, Reason
from worker.rest import Rest


def test_it_doubles_up_to_ten_minutes() -> None:
    rest = Rest(10)
    assert rest.left == 0
    seconds = []
    for _ in range(100):
        rest.begin()
        seconds.append(rest.fail())
    assert seconds[:8] == [10, 20, 40, 80, 160, 320, 600, 600]
    assert 590 < rest.left <= seconds[-1] == 600


def test_a_step_makes_it_begin_anew() -> None:
    rest = Rest(10)
    rest.begin()
    rest.fail()
    rest.begin()
    rest.step()
    assert rest.fail() == 0, "the job's own fault"
    rest.begin()
    assert rest.fail() == 10


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (OSError("no space"), True),
        (AttemptFailed(Failure(FailureCause.OUT_OF_MEMORY, "")), True),
        (AttemptFailed(Failure(FailureCause.INVALID_INPUT, "")), False),
        (AttemptFailed(Failure(FailureCause.DIVERGED, "")), False),
        (Halted(Reason.CANCEL), False),
        (Halted(Reason.SHUTDOWN), False),
        (Halted(Reason.DEADLINE), False),
    ],
    ids=str,
)
def test_only_what_may_be_the_workers_own_counts(error: Exception, *, ours: bool) -> None:
    assert may_be_ours(error) == ours
