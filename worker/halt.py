"""What may end an attempt from outside: the user, the worker's own shutdown, the loss of the lease."""

import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from datetime import datetime
from enum import StrEnum
from threading import Event, Lock, Thread
from typing import TypeVar

T = TypeVar("T")

_END = struct.Struct("=d")  # as mixkd.lease reads it


class Reason(StrEnum):
    """Why an attempt must end now."""

    CANCEL = "cancel"
    PAUSE = "pause"
    DEADLINE = "deadline"
    SILENCE = "silence"
    SHUTDOWN = "worker_shutdown"
    LEASE_LOST = "lease_lost"


_HURRY = (Reason.PAUSE, Reason.SHUTDOWN)


class Halted(Exception):
    """The attempt was told to end."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def boot_seconds() -> float:
    """A clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseFile:
    """The end of a lease, in memory that a trainer shares: see `mixkd.lease`."""

    def __init__(self, end: float) -> None:
        self.descriptor = os.memfd_create("lease")
        os.ftruncate(self.descriptor, _END.size)
        self._shared = mmap.mmap(self.descriptor, _END.size)
        self.write(end)

    def write(self, end: float) -> None:
        """The lease lasts until then."""
        self._shared[:] = _END.pack(end)

    def close(self) -> None:
        """Let go of it; a trainer that has it mapped still reads the last end."""
        self._shared.close()
        os.close(self.descriptor)


class Halt:
    """One attempt's stop button, pressed from any thread.

    It also presses itself when the lease has surely run out: then another worker may own the job, whatever
    a database that does not answer would say.

    Args:
        lease_end: in `boot_seconds`.
    """

    def __init__(self, lease_end: float) -> None:
        self._lease_end = lease_end
        self._file: LeaseFile | None = None
        self._reason: Reason | None = None
        self._pressed = Event()
        self._lock = Lock()
        self._finish_asked_at: datetime | None = None
        self.finish = False

    def ask(self, reason: Reason) -> None:
        """End the attempt. The first reason stands, but a lost lease outdoes any, and a shutdown a pause.

        A pause may take longer than a worker that must stop has; either way the job is paused.
        """
        with self._lock:
            first = self._reason is None
            if first or reason is Reason.LEASE_LOST or (self._reason, reason) == _HURRY:
                self._reason = reason
        self._pressed.set()

    def ask_to_finish(self, asked_at: datetime | None) -> None:
        """When the user asked for the training under way to end early; `finish` is set once for each wish."""
        if asked_at is not None and asked_at != self._finish_asked_at:
            self.finish = True
            self._finish_asked_at = asked_at

    def extend(self, lease_end: float) -> None:
        """The lease was renewed."""
        with self._lock:
            self._lease_end = lease_end
            if self._file is not None:
                self._file.write(lease_end)

    @contextmanager
    def shared(self) -> Iterator[int]:
        """Within the block a trainer with this descriptor knows how long the lease lasts."""
        file = LeaseFile(self._lease_end)
        with self._lock:
            self._file = file
        try:
            yield file.descriptor
        finally:
            with self._lock:
                self._file = None
            file.close()

    @property
    def reason(self) -> Reason | None:
        """Why to end; None: go on."""
        if boot_seconds() >= self._lease_end:
            self.ask(Reason.LEASE_LOST)
        return self._reason

    def wait(self, seconds: float) -> Reason | None:
        """Wait for a reason to end, `seconds` at most."""
        until = boot_seconds() + seconds
        while (reason := self.reason) is None:
            left = min(until, self._lease_end) - boot_seconds()
            if left <= 0 and boot_seconds() >= until:
                return None
            self._pressed.wait(max(left, 0))
        return reason

    def check(self) -> None:
        """Raise `Halted` if the attempt is to end."""
        if (reason := self.reason) is not None:
            raise Halted(reason)


class Patience:
    """How long the reason to end leaves for something; one that outdoes another begins a time of its own.

    Args:
        seconds: for each reason; none: no time at all.
    """

    def __init__(self, halt: Halt, seconds: Mapping[Reason, float]) -> None:
        self._halt = halt
        self._seconds = seconds
        self._reason: Reason | None = None
        self._until = 0.0

    def left(self) -> float:
        """Seconds from now, none below 0."""
        if (reason := self._halt.reason) is not self._reason:
            self._reason = reason
            self._until = boot_seconds() + (self._seconds.get(reason, 0) if reason else 0)
        return max(self._until - boot_seconds(), 0)


def interruptible(halt: Halt, work: Callable[[], T]) -> T:
    """Do blocking work that is left alone once the attempt is to end.

    A transfer that hangs cannot be stopped, only abandoned: its thread calls `halt.check` where it can,
    tidies up behind itself, and holds nobody up.

    Raises:
        Halted: the attempt is to end.
    """
    results: list[T] = []
    errors: list[BaseException] = []
    finished = Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    Thread(target=copy_context().run, args=[run], name="transfer", daemon=True).start()
    while not finished.wait(0.05):
        if halt.reason is not None and not finished.wait(1):
            halt.check()
    if errors:
        raise errors[0]
    return results[0]
