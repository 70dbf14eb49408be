"""A job's events as they happen, over connections that may break."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import httpx
from httpx_sse import EventSource

from mixkd_client._errors import ApiError, ConnectionFailed, TimedOut
from mixkd_client._transport import worth_retrying
from mixkd_client._types import FINAL, Event, Progress

Connect = Callable[[Mapping[str, str]], AbstractContextManager[httpx.Response]]


def follow(
    connect: Connect,
    *,
    after: int,
    patience: float,
    deadline: float | None,
    pause: Callable[[int], None],
) -> Iterator[Event | Progress]:
    """Every event after number `after`, once and in order, until the job's last one; progress in between.

    A connection that ends early is opened again at the last event seen (`Last-Event-ID`).

    Args:
        patience: seconds without a word from the service after which to give up.
        deadline: when to stop, by `time.monotonic()`.

    Raises:
        ApiError: the service refused in a way that trying again does not help.
        ConnectionFailed: `patience` ran out.
        TimedOut: the deadline has passed.
    """
    last, over = after, False
    failures, heard = 0, time.monotonic()
    while not over:
        problem: Exception | None = None
        try:
            with connect(_headers(last)) as response:
                if response.status_code == 204:  # `after` is the job's last event
                    return
                heard = time.monotonic()
                for message in EventSource(response).iter_sse():
                    failures, heard = 0, time.monotonic()
                    _check(deadline)
                    if message.event == "progress":
                        yield Progress.model_validate_json(message.data)
                        continue
                    event = Event.model_validate_json(message.data)
                    if event.seq <= last:
                        continue  # a replay that begins too early
                    last, over = event.seq, event.type in FINAL
                    yield event
        except (httpx.TransportError, ApiError) as error:
            if not worth_retrying(error):
                raise
            problem, over = error, False  # a job that was retried has more to tell than its earlier end
        if not over:
            _check(deadline)
            if time.monotonic() - heard > patience:
                raise ConnectionFailed(f"no word from the service for {patience:g} s") from problem
            pause(failures)
            failures += 1


def _check(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise TimedOut("the job goes on, but the time allowed for waiting is over")


def _headers(last: int) -> dict[str, str]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return {**headers, "Last-Event-ID": str(last)} if last else headers
