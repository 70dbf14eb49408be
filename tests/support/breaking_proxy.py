"""A proxy that breaks connections where a test says."""

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class BreakingProxy:
    """Passes connections on to a server.

    The n-th connection is cut after `limits[n]` bytes of the server's answer; connections beyond the list
    are left alone. A limit of 0 loses the answer, but not the request.
    """

    def __init__(self, port: int, limits: list[int]) -> None:
        self.limits = deque(limits)
        self.passed = 0  # bytes of answers, over all connections
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                limit = self.limits.popleft() if self.limits else None
                threading.Thread(target=self._serve, args=(client, limit), daemon=True).start()

    def _serve(self, client: socket.socket, limit: int | None) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server, suppress(OSError):
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            left = limit
            while data := server.recv(65536):
                part = data if left is None else data[:left]
                client.sendall(part)
                self.passed += len(part)
                if left is not None:
                    left -= len(part)
                    if left == 0:
                        break
            for end in (client, server):  # closing alone would wait for the thread that reads from it
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def breaking(base_url: str, limits: list[int]) -> Iterator[BreakingProxy]:
    """A proxy in front of `base_url`."""
    proxy = BreakingProxy(int(base_url.rpartition(":")[2]), limits)
    try:
        yield proxy
    finally:
        proxy.close()
