"""`python -m api`: the API as a process."""

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from api.main import create_app
from core import log
from core.config import load
from core.errors import MixkdError
from core.start import prepare

STOP_SECONDS = 2
"""How long a request may go on after SIGTERM; streams of events end at once by themselves."""


class _Server(uvicorn.Server):
    """Tells the streams to end before it waits for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Exit status 1: it cannot start, and has said why."""
    parser = argparse.ArgumentParser(prog="python -m api", description="Serve mixkd's HTTP API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--fd", type=int, help="listen on this inherited socket instead")
    arguments = parser.parse_args(argv)

    log.configure()
    try:
        settings = load()
        prepare(settings)
    except MixkdError as error:
        print(f"python -m api: {error}", file=sys.stderr)  # noqa: T201 - for the operator at the terminal
        return 1
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        lifespan="on",
        log_config=None,  # ours is in place
        access_log=False,  # api.middleware.RequestContext writes that line, with the request's id
        server_header=False,
        proxy_headers=True,  # believed from FORWARDED_ALLOW_IPS only, by default this machine
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    # Not uvicorn's own `fd`, which takes every socket for a Unix one.
    sockets = [socket.socket(fileno=arguments.fd)] if arguments.fd is not None else None
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after it has stopped in good order
        _Server(config, app).run(sockets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
