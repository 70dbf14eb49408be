"""The stop button of an attempt, and what its trainer may read of the lease."""

import os
import struct
from datetime import UTC, datetime, timedelta

import pytest

from worker.halt import Halt, Halted, Patience, Reason, boot_seconds


@pytest.fixture
def halt() -> Halt:
    return Halt(boot_seconds() + 60)


def test_the_first_reason_stands_but_for_the_loss_of_the_lease(halt: Halt) -> None:
    assert halt.reason is None
    halt.ask(Reason.PAUSE)
    halt.ask(Reason.CANCEL)
    assert halt.reason is Reason.PAUSE
    halt.ask(Reason.LEASE_LOST)
    assert halt.reason is Reason.LEASE_LOST
    with pytest.raises(Halted):
        halt.check()


def test_a_shutdown_outdoes_a_pause_and_nothing_else(halt: Halt) -> None:
    halt.ask(Reason.PAUSE)
    halt.ask(Reason.SHUTDOWN)
    assert halt.reason is Reason.SHUTDOWN
    halt.ask(Reason.PAUSE)
    assert halt.reason is Reason.SHUTDOWN
    cancelled = Halt(boot_seconds() + 60)
    cancelled.ask(Reason.CANCEL)
    cancelled.ask(Reason.SHUTDOWN)
    assert cancelled.reason is Reason.CANCEL


def test_each_reason_has_a_time_of_its_own(halt: Halt) -> None:
    patience = Patience(halt, {Reason.PAUSE: 60, Reason.SHUTDOWN: 5})
    assert patience.left() == 0
    halt.ask(Reason.PAUSE)
    assert 50 < patience.left() <= 60
    halt.ask(Reason.SHUTDOWN)
    assert 0 < patience.left() <= 5
    halt.ask(Reason.LEASE_LOST)
    assert patience.left() == 0


def test_it_presses_itself_when_the_lease_has_run_out() -> None:
    assert Halt(boot_seconds() - 1).reason is Reason.LEASE_LOST


def test_a_renewal_holds_it_off_and_the_trainer_sees_it(halt: Halt) -> None:
    with halt.shared() as descriptor:
        first = struct.unpack("=d", os.pread(descriptor, 8, 0))[0]
        assert first > boot_seconds()
        halt.extend(first + 100)
        assert struct.unpack("=d", os.pread(descriptor, 8, 0))[0] == first + 100
    halt.extend(first)  # without a trainer there is nobody to tell
    with halt.shared() as descriptor:
        assert struct.unpack("=d", os.pread(descriptor, 8, 0))[0] == first


def test_each_wish_to_finish_is_passed_on_once(halt: Halt) -> None:
    """Every heartbeat reads the same column until the trainer has granted it."""
    first = datetime.now(UTC)
    halt.ask_to_finish(None)
    assert not halt.finish
    halt.ask_to_finish(first)
    assert halt.finish
    halt.finish = False  # passed on
    halt.ask_to_finish(first)
    assert not halt.finish
    halt.ask_to_finish(first + timedelta(seconds=1))  # granted and wished again between two heartbeats
    assert halt.finish
