"""Keeps an open page up to date: server-sent events that htmx swaps in, and points for the charts.

A message's id says all that its reader has seen: the last event's number and the last metric. A stream that
is resumed after it, on whichever API process, repeats nothing and skips nothing. The tables are the only
source (ADR 8), read again and again, and no session is held between two reads.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy.exc
from fastapi.sse import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api.dashboard import render, views
from api.schemas.jobs import EventView, JobQuery, JobView
from api.stream import BATCH, pause
from core.accounts import service as accounts
from core.accounts.service import Principal
from core.db import SessionFactory
from core.errors import MixkdError
from core.jobs import repository, service
from core.jobs.states import FINAL

log = logging.getLogger(__name__)

POINTS = 1000  # metrics in one message
LONGEST = 600.0
"""Seconds until a stream ends and its page asks anew, with the cookie that it has by then."""


@dataclass(frozen=True)
class Seen:
    """How far a reader has come.

    Args:
        event: number of the last event.
        metric: the cursor of the page after the last metric, as `core.jobs.service` gives it; "": none yet.
    """

    event: int
    metric: str = ""

    def __str__(self) -> str:
        return f"{self.event}.{self.metric}"

    @classmethod
    def of(cls, text: str | None, otherwise: "Seen") -> "Seen":
        """What an id says. One that is not ours says nothing."""
        match = re.fullmatch(r"(\d{1,15})\.([\w-]{0,60})", text or "", re.ASCII)
        return cls(int(match[1]), match[2]) if match else otherwise


@dataclass(frozen=True)
class _News:
    """What one read found. `shown`: the parts of the page that say how the job stands and what came of it."""

    seen: Seen
    shown: tuple[str, ...]
    events: str
    points: list[dict[str, Any]]
    ended: bool
    more: bool


async def job(
    sessions: SessionFactory, viewer: Principal, job_id: str, seen: Seen, stopping: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    """A job's page: how it stands, its new events, the points of its charts. `end`: there will be no more."""
    shown: tuple[str, ...] = ()
    until = time.monotonic() + LONGEST
    while not stopping.is_set() and time.monotonic() < until:
        try:
            news = await run_in_threadpool(_job, sessions, viewer, job_id, seen)
        except (sqlalchemy.exc.SQLAlchemyError, MixkdError) as error:  # a revoked key is one of these
            log.warning("the page of %s is no longer kept up to date: %s", job_id, error)
            return
        if news.points:
            yield ServerSentEvent(raw_data=json.dumps(news.points), event="points")
        if changed := "".join(part for part in news.shown if part not in shown) + news.events:
            yield ServerSentEvent(raw_data=changed, id=str(news.seen))
            shown = news.shown
        elif news.seen != seen:
            yield ServerSentEvent(raw_data="", event="seen", id=str(news.seen))
        seen = news.seen
        if news.ended:
            yield ServerSentEvent(raw_data="", event="end")
            return
        if not news.more:
            await pause(stopping)


async def jobs(
    sessions: SessionFactory, viewer: Principal, query: JobQuery, stopping: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    """The list of jobs, whenever it looks different."""
    shown = ""
    until = time.monotonic() + LONGEST
    while not stopping.is_set() and time.monotonic() < until:
        try:
            rows = await run_in_threadpool(_jobs, sessions, viewer, query)
        except (sqlalchemy.exc.SQLAlchemyError, MixkdError) as error:
            log.warning("a list of jobs is no longer kept up to date: %s", error)
            return
        if rows != shown:
            yield ServerSentEvent(raw_data=rows)
            shown = rows
        await pause(stopping)


def _job(sessions: SessionFactory, viewer: Principal, job_id: str, seen: Seen) -> _News:
    owner_id = viewer.owner_id
    with sessions() as session:
        accounts.of_key(session, viewer.key_id)
        # The job first: an event that comes between the reads is then not taken for the last.
        page = views.job_page(session, owner_id, job_id)
        events = service.page_events(session, owner_id, job_id, after=seen.event, limit=BATCH, cursor=None)
        metrics = service.page_metrics(
            session, owner_id, job_id, phase=None, after=None, limit=POINTS, cursor=seen.metric or None
        )
    now = Seen(
        events.items[-1].seq if events.items else seen.event,
        repository.cursor_after(metrics.items[-1]) if metrics.items else seen.metric,
    )
    more = events.next_cursor is not None or metrics.next_cursor is not None
    return _News(
        now,
        shown=tuple(render.html("_live.html", part=part, page=page) for part in ("job", "outcome")),
        events=render.html("_live.html", part="events", events=[EventView.of(one) for one in events.items]),
        points=[{"phase": one.phase, "step": one.step, **one.values} for one in metrics.items],
        ended=page.job.status in FINAL and not more and now.event >= page.events,
        more=more,
    )


def _jobs(sessions: SessionFactory, viewer: Principal, query: JobQuery) -> str:
    with sessions() as session:
        accounts.of_key(session, viewer.key_id)
        page = service.page(
            session, viewer.owner_id, status=query.status, limit=query.limit, cursor=query.cursor
        )
    return render.html("_live.html", part="jobs", query=query, rows=[JobView.of(one) for one in page.items])
