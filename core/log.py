"""The log of a process: whoever starts one calls `configure` once; everyone else uses `logging`.

A terminal gets readable lines, anything else one JSON object a line. What a request, job or attempt binds
with `bound` stands in each of its lines.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from core.censor import censored

bound = structlog.contextvars.bound_contextvars
"""`with log.bound(job_id=…, attempt=…):` adds these to every line written inside, in this thread."""

# Alembic greets at every look at the schema; httpx writes the whole URL of a download, signature and all.
_QUIET = ("alembic.runtime.migration", "httpx", "httpcore")


def configure(*, level: int | str = logging.INFO, json: bool | None = None) -> None:
    """Send every log record of this process to stderr.

    Args:
        json: one JSON object a line; None: unless stderr is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # rich would print local variables: keys
        )
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_colours]
    if as_json:
        final.append(structlog.processors.format_exc_info)
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[*final, _Censored(renderer)]
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_colours(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn's message once more, for terminals
    return event


class _Censored:
    """A renderer whose line holds no secret, wherever in the record it stood."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        return censored(str(self._renderer(logger, name, event)))
