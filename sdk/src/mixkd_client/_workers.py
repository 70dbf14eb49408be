"""Workers: what there is to run jobs on."""

from collections.abc import Iterator

from mixkd_client._transport import Transport
from mixkd_client._types import Page, Worker


class Workers:
    """`client.workers`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Iterator[Worker]:
        """Those that reported in within the last day, newest first; pages are fetched as they are needed."""
        return self._transport.pages("/v1/workers", Page[Worker])
