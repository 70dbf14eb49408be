"""Waiting for what the service imports by itself: large data sets, models from a hub."""

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from mixkd_client._errors import ImportRefused, TimedOut
from mixkd_client._types import ProblemDocument

POLL = 0.5  # seconds


class Imported(Protocol):
    """A data set or a model."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def refusal(self) -> ProblemDocument | None: ...


T = TypeVar("T", bound=Imported)


def wait(read: Callable[[], T], timeout: float | None) -> T:
    """Ask until it is ready.

    Raises:
        ImportRefused: it turned out to be unusable.
        TimedOut: `timeout` seconds have passed.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        thing = read()
        if thing.status == "ready":
            return thing
        if thing.status == "refused":
            raise ImportRefused(thing.name, thing.refusal or ProblemDocument())
        if deadline is not None and time.monotonic() > deadline:
            raise TimedOut(f"{thing.name} is still {thing.status} after {timeout:g} s")
        time.sleep(POLL)
