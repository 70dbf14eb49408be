"""Requests with retries; answers that are not a success become errors."""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from mixkd_client._errors import ApiError, ConnectionFailed, from_response
from mixkd_client._types import Page

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
T = TypeVar("T")
LONGEST_DELAY = 5.0  # seconds


class Transport:
    """An httpx client that tries again where that is safe.

    A request is repeated after a connection error or a 429, 502, 503 or 504. Only what may be repeated goes
    through here: reads, wishes (which change nothing the second time), and POSTs that carry an idempotency
    key.
    """

    def __init__(self, http: httpx.Client, *, retries: int, first_delay: float = 0.2) -> None:
        self.http = http
        self.retries = retries
        self._first_delay = first_delay

    def get(self, path: str, into: Callable[[bytes], T], **params: Any) -> T:
        """GET, parsed by `into`; parameters that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        return into(self.request("GET", path, params=given).content)

    def pages(self, path: str, page: type[Page[T]], **params: Any) -> Iterator[T]:
        """Every item of a list, fetched a page at a time."""
        cursor: str | None = None
        while True:
            part = self.get(path, page.model_validate_json, cursor=cursor, **params)
            yield from part.items
            cursor = part.next_cursor
            if cursor is None:
                return

    def create(self, path: str, *, idempotency_key: str | None, **kwargs: Any) -> bytes:
        """POST something new; a repetition of the same call makes nothing twice."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self.request("POST", path, headers=headers, **kwargs).content

    def request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """One answer, read whole.

        Raises:
            ApiError: the service refused, or was still failing at the last retry.
            ConnectionFailed: it could not be reached.
        """
        for attempt in range(self.retries + 1):
            try:
                response = self.http.request(method, path, **kwargs)
            except httpx.TransportError as error:
                if attempt == self.retries:
                    raise unreachable(self.http, error) from error
                self.pause(attempt)
                continue
            if response.status_code not in RETRIED_STATUSES or attempt == self.retries:
                break
            self.pause(attempt, response.headers)
        if not response.is_success:
            raise from_response(response)
        return response

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], *, silence: float | None = None
    ) -> Iterator[httpx.Response]:
        """One answer as it arrives. Not retried: the caller knows where to resume.

        Args:
            silence: seconds without a byte that mean a broken connection; by default the timeout.

        Raises:
            ApiError: the service refused.
            httpx.TransportError: the connection failed, before or during the answer.
        """
        whole = self.http.timeout
        read = whole.read if silence is None else silence
        timeout = httpx.Timeout(connect=whole.connect, read=read, write=whole.write, pool=whole.pool)
        with self.http.stream("GET", path, headers=dict(headers), timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise from_response(response)
            yield response

    def pause(self, attempt: int, headers: Mapping[str, str] | None = None) -> None:
        """Wait before the next attempt: exponentially longer, jittered, and as long as the service says."""
        delay = min(self._first_delay * 2**attempt, LONGEST_DELAY) * random.uniform(0.5, 1)
        named = (headers or {}).get("retry-after", "")
        time.sleep(max(delay, min(float(named), 60)) if named.isdecimal() else delay)


def unreachable(http: httpx.Client, error: httpx.TransportError) -> ConnectionFailed:
    """Says which service, and why."""
    return ConnectionFailed(f"{http.base_url} cannot be reached: {str(error) or type(error).__name__}")


def worth_retrying(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ApiError):
        return error.status in RETRIED_STATUSES
    return isinstance(error, httpx.TransportError)
