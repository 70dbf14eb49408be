"""A run that is lent to this process makes no step once the lease may be over."""

import os
import struct
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from mixkd import lease
from mixkd.lease import Lease
from mixkd.training.control import Control


class Supervisor:
    """The other end: writes until when the lease lasts, in seconds from now."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("lease")
        os.ftruncate(self.descriptor, 8)

    def extend(self, seconds: float) -> None:
        end = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        os.pwrite(self.descriptor, struct.pack("=d", end), 0)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    os.close(made.descriptor)


def never() -> None:
    raise AssertionError("it waited")


def test_a_lease_that_lasts_holds_nothing_up(supervisor: Supervisor) -> None:
    supervisor.extend(60)
    Lease(supervisor.descriptor).wait(never)


def test_one_that_is_over_is_waited_for_until_it_is_renewed(supervisor: Supervisor) -> None:
    supervisor.extend(-1)
    ticks: list[None] = []
    waiting = Thread(target=Lease(supervisor.descriptor).wait, args=[lambda: ticks.append(None)])
    waiting.start()
    while len(ticks) < 3:
        time.sleep(0.01)
    assert waiting.is_alive()
    supervisor.extend(60)
    waiting.join(10)
    assert not waiting.is_alive()


def test_one_that_nobody_renews_ends_the_process(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.1)
    supervisor.extend(-1)
    with pytest.raises(SystemExit) as ended:
        Lease(supervisor.descriptor).wait(lambda: None)
    assert ended.value.code == os.EX_TEMPFAIL


def test_who_waits_can_be_told_to_stop(supervisor: Supervisor) -> None:
    supervisor.extend(-1)
    control = Control(Lease(supervisor.descriptor))
    control.stop = True
    with pytest.raises(SystemExit) as ended:
        control.await_lease()
    assert ended.value.code == 143


def test_without_a_lease_nothing_waits() -> None:
    Control().await_lease()
