"""`/v1/jobs`: submit, follow, control, and fetch what came of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api import stream
from api.deps import Principal, Queue, Session, Settings, after_commit
from api.idempotency import IdempotencyKey, mark_replay
from api.schemas.common import Id, Page
from api.schemas.jobs import (
    MOST_EVENTS,
    REPORT_SCHEMA,
    AttemptList,
    AttemptView,
    EventQuery,
    EventView,
    JobChange,
    JobCreate,
    JobQuery,
    JobView,
    MetricQuery,
    MetricView,
    StreamQuery,
)
from core.accounts import idempotency
from core.ids import new_id
from core.jobs import service, wishes
from core.jobs.service import Resources

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post("", status_code=201, summary="Submit a job")
def create(
    *,
    body: JobCreate,
    session: Session,
    principal: Principal,
    settings: Settings,
    queue: Queue,
    response: Response,
    key: IdempotencyKey = None,
) -> JobView:
    """Queue a distillation. Everything that is wrong with it is said now, before a worker sees it."""
    job_id = new_id("job")
    request = idempotency.repeatable(principal.owner_id, key, "jobs", body.model_dump(mode="json"))
    if earlier := idempotency.claim(session, request, job_id):
        mark_replay(response)
        return JobView.of(service.get(session, principal.owner_id, earlier))
    placed = service.create(
        session,
        principal.owner_id,
        job_id,
        name=body.name,
        teacher_id=body.teacher_id,
        dataset_id=body.dataset_id,
        recipe=body.recipe,
        priority=body.priority,
        max_attempts=settings.max_attempts,
        resources=Resources(**body.resources.model_dump()),
        deadline_seconds=body.deadline_seconds,
    )
    after_commit(session, lambda: queue.wake(placed.job.device))
    return JobView.of(placed)


@router.get("", summary="List jobs, newest first")
def list_jobs(query: Annotated[JobQuery, Query()], session: Session, principal: Principal) -> Page[JobView]:
    """Those of the key's owner."""
    page = service.page(
        session, principal.owner_id, status=query.status, limit=query.limit, cursor=query.cursor
    )
    return Page.of(page, JobView.of)


@router.get("/{job_id}", summary="Read a job")
def read(job_id: Id, session: Session, principal: Principal) -> JobView:
    """Its state, its progress, and why it failed if it has."""
    return JobView.of(service.get(session, principal.owner_id, job_id))


@router.post("/{job_id}/cancel", summary="Ask for a job's end")
def cancel(job_id: Id, session: Session, principal: Principal) -> JobView:
    """A waiting job ends at once, a running one within seconds. Repeating this changes nothing."""
    return JobView.of(wishes.cancel(session, principal.owner_id, job_id))


@router.post("/{job_id}/pause", summary="Let a job wait")
def pause(job_id: Id, session: Session, principal: Principal) -> JobView:
    """A running one writes a checkpoint and frees its worker. 409 once it has ended or is about to."""
    return JobView.of(wishes.pause(session, principal.owner_id, job_id))


@router.post("/{job_id}/resume", summary="Let a paused job go on")
def resume(job_id: Id, session: Session, principal: Principal, queue: Queue) -> JobView:
    """It is queued again, and goes on from its last checkpoint. 409 once it has ended or is about to."""
    placed = wishes.resume(session, principal.owner_id, job_id)
    after_commit(session, lambda: queue.wake(placed.job.device))
    return JobView.of(placed)


@router.post("/{job_id}/finish", summary="Finish now and keep the best")
def finish(job_id: Id, session: Session, principal: Principal) -> JobView:
    """The training under way stops at its next step and counts with its best weights. 409 unless it runs."""
    return JobView.of(wishes.finish(session, principal.owner_id, job_id))


@router.post("/{job_id}/retry", summary="Try a job again")
def retry(job_id: Id, session: Session, principal: Principal, queue: Queue) -> JobView:
    """One that failed or was cancelled goes on from its last checkpoint. 409 if it has succeeded."""
    placed = wishes.retry(session, principal.owner_id, job_id)
    after_commit(session, lambda: queue.wake(placed.job.device))
    return JobView.of(placed)


@router.patch("/{job_id}", summary="Change a job that waits")
def change(job_id: Id, body: JobChange, session: Session, principal: Principal) -> JobView:
    """Its priority. 409 once a worker has it."""
    return JobView.of(wishes.prioritise(session, principal.owner_id, job_id, body.priority))


@router.get("/{job_id}/events", summary="What happened to a job, oldest first")
def events(
    job_id: Id, query: Annotated[EventQuery, Query()], session: Session, principal: Principal
) -> Page[EventView]:
    """The job's history; it is only ever added to."""
    page = service.page_events(
        session, principal.owner_id, job_id, after=query.after, limit=query.limit, cursor=query.cursor
    )
    return Page.of(page, EventView.of)


def _last_seen(
    *,
    job_id: Id,
    query: Annotated[StreamQuery, Query()],
    session: Session,
    principal: Principal,
    last_event_id: Annotated[int | None, Header(ge=0, le=MOST_EVENTS)] = None,
) -> int:
    """Where a stream resumes. Another owner's job must be a 404 before the stream's 200 has left.

    The 204 tells a reader that has seen the final event not to come back (HTML standard, 9.2.3).
    """
    after = query.after if last_event_id is None else last_event_id
    if service.is_told(session, principal.owner_id, job_id, after):
        raise HTTPException(204)
    return after


@router.get(
    "/{job_id}/events/stream",
    summary="Follow a job, as server-sent events",
    response_class=EventSourceResponse,
    responses={204: {"description": "The job has ended, and nothing lies after that event"}},
)
async def follow(
    request: Request, job_id: Id, after: Annotated[int, Depends(_last_seen)], principal: Principal
) -> AsyncIterator[ServerSentEvent]:
    """All events after `Last-Event-ID`, then each as it happens, with `id: seq` and `event: type`.

    Between them come `event: progress` snapshots without an id. The stream ends with the job's final event.
    """
    stopping: asyncio.Event = request.app.state.stopping
    async for event in stream.follow(request.app.state.sessions, principal, job_id, after, stopping):
        yield event


@router.get("/{job_id}/metrics", summary="Numbers logged at steps")
def metrics(
    job_id: Id, query: Annotated[MetricQuery, Query()], session: Session, principal: Principal
) -> Page[MetricView]:
    """In the order of the phases and steps. To poll, name the `phase` and ask `after` its last step."""
    page = service.page_metrics(
        session,
        principal.owner_id,
        job_id,
        phase=query.phase,
        after=query.after,
        limit=query.limit,
        cursor=query.cursor,
    )
    return Page.of(page, MetricView.of)


@router.get("/{job_id}/attempts", summary="The runs of a job")
def attempts(job_id: Id, session: Session, principal: Principal) -> AttemptList:
    """Which worker ran it, and how each run ended; oldest first."""
    found = service.attempts(session, principal.owner_id, job_id)
    return AttemptList(items=[AttemptView.of(attempt) for attempt in found])


@router.get(
    "/{job_id}/report",
    summary="The report card",
    responses={200: {"content": {"application/json": {"schema": REPORT_SCHEMA}}}},
)
def report(job_id: Id, session: Session, principal: Principal) -> dict[str, Any]:
    """Teacher and student side by side; 404 until the job has succeeded."""
    return service.report(session, principal.owner_id, job_id)
