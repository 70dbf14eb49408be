"""A job's events as server-sent events: first what the table holds, then what comes, until the job's end.

The table is the only source, read again and again by `seq`: a stream that is resumed after the last `seq`
its reader saw neither repeats an event nor skips one. No session is held between two reads.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy.exc
from fastapi.sse import ServerSentEvent
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from api.schemas.jobs import EventView
from core.accounts.models import ApiKey
from core.accounts.service import Principal
from core.db import SessionFactory
from core.jobs import repository
from core.jobs.models import Job
from core.jobs.states import FINAL

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
BATCH = 200


@dataclass(frozen=True)
class _News:
    """What one read of the database found."""

    events: list[EventView]
    progress: dict[str, Any] | None
    ended: bool  # the job is in a final state and `events` reach up to its last one; or the key was revoked


async def follow(
    sessions: SessionFactory, principal: Principal, job_id: str, after: int, stopping: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    """Events above `after`, each with its id; between them `progress`, without one: it is not history.

    Ends after the job's final event; when the server stops, and the reader may resume elsewhere; and when the
    key is revoked.
    """
    progress: dict[str, Any] | None = None
    while not stopping.is_set():
        try:
            news = await run_in_threadpool(_read, sessions, principal, job_id, after)
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("the stream of %s ends, for the database failed: %s", job_id, error)
            return
        for event in news.events:
            yield ServerSentEvent(data=event, event=event.type, id=str(event.seq))
            after = event.seq
        if news.ended:
            return
        if news.progress and news.progress != progress:
            progress = news.progress
            yield ServerSentEvent(data=progress, event="progress")
        if len(news.events) < BATCH:
            await pause(stopping)


def _read(sessions: SessionFactory, principal: Principal, job_id: str, after: int) -> _News:
    with sessions() as session:
        # The job first: an event that comes between the two reads is then not taken for the last.
        job = session.execute(
            select(Job.status, Job.event_seq, Job.progress)
            .join(ApiKey, ApiKey.owner_id == Job.owner_id)
            .where(Job.id == job_id, ApiKey.id == principal.key_id, ApiKey.revoked_at.is_(None))
        ).one_or_none()
        if job is None:
            return _News([], None, ended=True)
        found = repository.events(session, principal.owner_id, job_id, after=after, limit=BATCH).items
    events = [EventView.of(event) for event in found]
    last = events[-1].seq if events else after
    return _News(events, job.progress, ended=job.status in FINAL and last >= job.event_seq)


async def pause(stopping: asyncio.Event) -> None:
    """Wait until it is time to read again, or the server stops."""
    try:
        await asyncio.wait_for(stopping.wait(), POLL_SECONDS)
    except TimeoutError:
        return
