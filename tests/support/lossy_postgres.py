"""A way to Postgres that loses answers, or everything: a proxy in front of the server's socket."""

import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

from sqlalchemy import make_url

COMMIT = b"COMMIT\0"
SOCKET = ".s.PGSQL.5432"


class LossyPostgres:
    """Passes on what both sides say, until it is told otherwise.

    Args:
        folder: made for the socket.
        host: listen at this address instead, on any port.

    Attributes:
        url: of the database, by this way.
        silent: nothing passes in either direction, and no connection ends: half-open.
        lost: of how many commits the answer was lost so far.
    """

    def __init__(self, folder: Path, database_url: str, host: str | None = None) -> None:
        folder.mkdir()
        direct = make_url(database_url)
        self._server = str(Path(str(direct.query["host"])) / SOCKET)
        if host is None:
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(str(folder / SOCKET))
            self._listening.listen()
            way = direct.update_query_dict({"host": str(folder)})
        else:
            self._listening = socket.create_server((host, 0))
            way = direct.set(query={}, host=host, port=self._listening.getsockname()[1])
        self.url = way.render_as_string(hide_password=False)
        self.silent = False
        self.lost = 0
        self._to_lose = 0
        self._lock = Lock()
        self._open: set[socket.socket] = set()
        Thread(target=self._accept, daemon=True).start()

    def lose(self, commits: int) -> None:
        """Of so many commits to come, end the connection between the server's answer and us."""
        with self._lock:
            self._to_lose += commits

    def lead_to(self, database_url: str) -> None:
        """From now on this is the way to another server; who was on it to the first has to come again."""
        self._server = str(Path(str(make_url(database_url).query["host"])) / SOCKET)
        self.drop()

    def drop(self) -> None:
        """End every connection that is open now."""
        with self._lock:
            ends = list(self._open)
        for end in ends:
            _close(end)

    def close(self) -> None:
        """Let nobody through any more."""
        _close(self._listening)
        self.silent = False
        self.drop()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._server)
        except OSError:
            _close(client)
            return
        with self._lock:
            self._open |= {client, server}
        answers = _Answers()
        Thread(target=self._pass_on, args=(client, server, answers, True), daemon=True).start()
        self._pass_on(server, client, answers, False)

    def _pass_on(
        self, source: socket.socket, target: socket.socket, answers: "_Answers", to_server: bool
    ) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                while self.silent:
                    time.sleep(0.02)
                if to_server and COMMIT in chunk and self._takes_one():
                    answers.to_lose = True
                elif not to_server and answers.to_lose:  # so the commit has happened
                    break
                target.sendall(chunk)
        _close(source)
        _close(target)
        with self._lock:
            self._open -= {source, target}

    def _takes_one(self) -> bool:
        with self._lock:
            if not self._to_lose:
                return False
            self._to_lose -= 1
            self.lost += 1
            return True


class _Answers:
    """What one connection's server has left to say is to be lost."""

    to_lose = False


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
