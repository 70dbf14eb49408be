"""What a signal does to a training, and outside of one."""

import os
import signal
from collections.abc import Iterator

import pytest

from mixkd.contract.messages import PhaseStarted
from mixkd.contract.signals import FINISH
from mixkd.training.control import Control


@pytest.fixture
def control() -> Iterator[Control]:
    numbers = (signal.SIGTERM, signal.SIGUSR1, *FINISH.values())
    before = {number: signal.getsignal(number) for number in numbers}
    control = Control()
    control.install()
    yield control
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sigterm_ends_the_process_at_once_outside_of_a_training(control: Control) -> None:
    with pytest.raises(SystemExit) as stopped:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 143


def test_a_second_sigterm_does_not_break_the_tidying_up(control: Control) -> None:
    tidied = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            tidied.append("all")

    with pytest.raises(SystemExit):
        work()
    assert tidied == ["all"]


def test_sigterm_between_two_trainings_does_not_wait(control: Control) -> None:
    with control.training():
        pass
    with pytest.raises(SystemExit):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_waits_within_a_training_and_a_second_one_changes_nothing(control: Control) -> None:
    steps = []

    def training() -> None:
        with control.training():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("the rest of the step")
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("the checkpoint")
            control.leave_if_asked()
            steps.append("a further step")

    with pytest.raises(SystemExit) as stopped:
        training()
    assert steps == ["the rest of the step", "the checkpoint"]
    assert stopped.value.code == 143


def test_sigterm_in_the_last_step_is_not_forgotten(control: Control) -> None:
    with pytest.raises(SystemExit), control.training():
        os.kill(os.getpid(), signal.SIGTERM)


def test_an_error_in_a_training_is_not_hidden_by_a_wish_to_stop(control: Control) -> None:
    def training() -> None:
        with control.training():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training()


def test_sigusr1_asks_to_finish_and_ends_nothing(control: Control) -> None:
    assert not control.finish_now
    os.kill(os.getpid(), signal.SIGUSR1)
    assert control.finish_now
    assert not control.stop
    control.leave_if_asked()


def test_a_wish_that_names_another_phase_is_not_for_this_one(control: Control) -> None:
    """The supervisor has not heard yet that the teacher is taught."""
    control.hear(PhaseStarted(phase="distil", steps=10))
    os.kill(os.getpid(), FINISH["teach"])
    assert not control.finish_now
    os.kill(os.getpid(), FINISH["distil"])
    assert control.finish_now


def test_a_wish_ends_with_its_phase(control: Control) -> None:
    control.hear(PhaseStarted(phase="teach", steps=10))
    os.kill(os.getpid(), FINISH["teach"])
    control.hear(PhaseStarted(phase="distil", steps=10))
    assert not control.finish_now
