"""`python -m api`: the API as a process."""

import argparse
import contextlib
import socket
import sys
from collections.abc import Sequence

import sqlalchemy.exc
import uvicorn
from fastapi import FastAPI

from api.main import create_app
from core import db, log, schema
from core.config import Settings
from core.errors import MixkdError

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
    """Serve until SIGTERM or Ctrl-C. Exit status 1: the database is missing or has to be migrated."""
    parser = argparse.ArgumentParser(prog="python -m api", description="Serve mixkd's HTTP API.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    parser.add_argument("--fd", type=int, help="listen on this inherited socket instead")
    arguments = parser.parse_args(argv)

    log.configure()
    settings = Settings()
    if problem := _not_startable(settings):
        print(f"python -m api: {problem}", file=sys.stderr)  # noqa: T201 - for the operator at the terminal
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


def _not_startable(settings: Settings) -> str | None:
    """What an operator has to do first, without the traceback that a failed start would show."""
    engine = db.connect(settings)
    try:
        schema.require_current(engine)
    except MixkdError as error:
        return error.detail
    except sqlalchemy.exc.OperationalError as error:
        return f"the database does not answer: {error.orig}"
    finally:
        engine.dispose()
    return None


if __name__ == "__main__":
    sys.exit(main())
