"""The list of jobs and the page of one."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from api.dashboard import live, render, views
from api.dashboard.live import Seen
from api.deps import Principal, Queue, Session, after_commit
from api.schemas.common import Id
from api.schemas.jobs import EventView, JobQuery, JobView
from core.errors import NotFound
from core.jobs import service, wishes
from mixkd.contract.problems import Problem

router = APIRouter()

MOST_EVENTS = 100  # of a job's history, the newest; the API has them all

_WISHES: dict[str, Any] = {
    "cancel": wishes.cancel,
    "pause": wishes.pause,
    "resume": wishes.resume,
    "finish": wishes.finish,
    "retry": wishes.retry,
}
_QUEUE = ("resume", "retry")  # what makes work for a worker


@router.get("/jobs")
def list_jobs(query: Annotated[JobQuery, Query()], session: Session, principal: Principal) -> Response:
    """All jobs, newest first, or those in one state."""
    page = service.page(
        session, principal.owner_id, status=query.status, limit=query.limit, cursor=query.cursor
    )
    return render.listing("jobs.html", principal, query, page, JobView.of)


@router.get("/jobs/stream", response_class=EventSourceResponse)
async def follow_list(
    request: Request, query: Annotated[JobQuery, Query()], principal: Principal
) -> AsyncIterator[ServerSentEvent]:
    """The same list, whenever it changes."""
    state = request.app.state
    async for message in live.jobs(state.sessions, principal, query, state.stopping):
        yield message


@router.get("/jobs/{job_id}")
def read(job_id: Id, session: Session, principal: Principal) -> HTMLResponse:
    """One job: how it stands, its charts, its history, and what came of it."""
    page = views.job_page(session, principal.owner_id, job_id)
    after = max(page.events - MOST_EVENTS, 0)
    events = service.page_events(
        session, principal.owner_id, job_id, after=after, limit=MOST_EVENTS, cursor=None
    )
    return HTMLResponse(
        render.html(
            "job.html",
            viewer=principal,
            page=page,
            job=page.job,
            events=[EventView.of(one) for one in reversed(events.items)],
            earlier=after,
            seen=Seen(events.items[-1].seq if events.items else 0),
        )
    )


def _known(job_id: Id, session: Session, principal: Principal) -> str:
    """The job to follow. Another owner's must be a 404 before the stream's 200 has left."""
    return service.get(session, principal.owner_id, job_id).job.id


@router.get("/jobs/{job_id}/stream", response_class=EventSourceResponse)
async def follow(
    request: Request,
    job_id: Annotated[str, Depends(_known)],
    principal: Principal,
    seen: str = "",
    last_event_id: Annotated[str | None, Header()] = None,
) -> AsyncIterator[ServerSentEvent]:
    """What changes on a job's page. It resumes after `Last-Event-ID`, and begins after `seen`."""
    state = request.app.state
    start = Seen.of(last_event_id, Seen.of(seen, Seen(0)))
    async for message in live.job(state.sessions, principal, job_id, start, state.stopping):
        yield message


@router.post("/jobs/{job_id}/{wish}")
def ask(
    *, request: Request, job_id: Id, wish: str, session: Session, principal: Principal, queue: Queue
) -> Response:
    """Cancel, pause, resume, finish or retry a job; then its page as it is now."""
    if wish not in _WISHES:
        detail = f"nobody can {wish!r} a job"
        raise NotFound(detail, Problem("path", detail, wish, f"ask for {', '.join(_WISHES)}"))
    placed = _WISHES[wish](session, principal.owner_id, job_id)
    if wish in _QUEUE:
        after_commit(session, lambda: queue.wake(placed.job.device))
    if request.headers.get("hx-request") != "true":
        return RedirectResponse(f"/jobs/{job_id}", 303)
    if wish == "retry":  # the page of a job that had ended follows it no more
        return Response(status_code=204, headers={"HX-Refresh": "true"})
    page = views.job_page(session, principal.owner_id, job_id)
    return HTMLResponse(render.html("_job.html", page=page))


@router.get("/jobs/{job_id}/report.json")
def report(job_id: Id, session: Session, principal: Principal) -> Response:
    """The report card as the API gives it, to be kept."""
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-report.json"'}
    return JSONResponse(service.report(session, principal.owner_id, job_id), headers=headers)
