"""`/healthz` and `/readyz`: for whoever runs the service; they need no key and tell no secret."""

import logging
from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from core import schema
from core.errors import Unavailable
from mixkd.contract.problems import Problem

log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Every part answers."""

    status: Literal["ready"] = "ready"
    parts: list[str]


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Needs nothing but the process: a restart would help if this fails."""
    return Health()


@router.get("/readyz", summary="Can the service do its work?")
def readyz(request: Request) -> Readiness:
    """503 names the parts that do not answer; a restart of this process would not help."""
    state = request.app.state
    checks: dict[str, Callable[[], None]] = {
        "database": lambda: schema.require_current(state.engine),
        "broker": state.queue.ping,
        "storage": state.storage.ping,
    }
    problems = [problem for part, check in checks.items() if (problem := _problem(part, check))]
    if problems:
        raise Unavailable("; ".join(f"{p.field}: {p.problem}" for p in problems), *problems)
    return Readiness(parts=list(checks))


def _problem(part: str, check: Callable[[], None]) -> Problem | None:
    try:
        check()
    except schema.SchemaTooOld as error:
        return Problem(part, error.detail, remedy="run `mixkd-server migrate`")
    except Exception as error:
        log.warning("not ready: the %s failed: %s", part, error)
        return Problem(part, "it does not answer", remedy=f"see that the {part} runs and can be reached")
    return None
