"""The client: one connection pool, and the service's resources on it."""

from types import TracebackType
from typing import Self

import httpx

from mixkd_client._datasets import Datasets
from mixkd_client._jobs import Jobs
from mixkd_client._models import Models
from mixkd_client._transport import Transport
from mixkd_client._workers import Workers

VERSION = "0.1.0"


class Client:
    """A connection to one service. Usable by several threads; close it, or use it in a `with`.

    Args:
        base_url: where the service listens: `http://127.0.0.1:8000`.
        api_key: `mixkd_…`.
        retries: how often a request that may be repeated is, after a connection error or a 503.
        timeout: seconds that the service may stay silent. Checking an uploaded data set takes a while.

    Example:
        >>> with Client("http://127.0.0.1:8000", "mixkd_…") as client:
        ...     job = client.jobs.create(teacher.id, data.id, recipe={"student": {"layers": 3}})
        ...     client.jobs.wait(job.id)
        ...     client.jobs.download_student(job.id, "student")
    """

    datasets: Datasets
    models: Models
    jobs: Jobs
    workers: Workers

    def __init__(self, base_url: str, api_key: str, *, retries: int = 5, timeout: float = 120) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": f"mixkd-client/{VERSION}"},
            timeout=httpx.Timeout(timeout, connect=10),
        )
        transport = Transport(self._http, retries=retries)
        self.datasets = Datasets(transport)
        self.models = Models(transport)
        self.jobs = Jobs(transport)
        self.workers = Workers(transport)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
