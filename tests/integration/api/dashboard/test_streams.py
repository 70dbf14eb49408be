"""Pages that are kept up to date: what arrives, in which order, and after every cut."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle

import httpx
import pytest
from sqlalchemy.event import listen, remove

from api.dashboard.live import POINTS
from api.stream import BATCH
from core.jobs import claims, ends, wishes
from core.jobs.models import Job
from core.jobs.states import FailureCause
from mixkd.contract.messages import Metric, Progress
from tests.support.pages import Element, messages, read
from tests.support.waiting import until


@contextmanager
def follow(browser: httpx.Client, path: str, last: str | None = None) -> Iterator[Iterator[dict[str, str]]]:
    headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
    with browser.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield messages(answer.iter_text())


def parts(message: dict[str, str]) -> dict[str, Element]:
    """What a message puts where."""
    found = read(message["data"]).find("hx-partial")
    assert "".join(part.text for part in found).split() == read(message["data"]).text.split(), "none is lost"
    return {part["hx-target"]: part for part in found}


def numbers(message: dict[str, str]) -> list[int]:
    """The events that a message puts on top of the history, oldest first."""
    part = parts(message).get("#events")
    shown = part.find("li") if part else []
    return [int(one["id"].removeprefix("event-")) for one in reversed(shown)]


def stream_of(browser: httpx.Client, job_id: str) -> str:
    """Where a job's page goes on."""
    return read(browser.get(f"/jobs/{job_id}").text).one(id="live")["hx-sse:connect"]


# --- a job ---------------------------------------------------------------------------------------------


def test_what_happens_arrives_where_the_page_has_a_place_for_it(
    *, browser, job_id, sessions, run_by_worker, finish
):
    page = read(browser.get(f"/jobs/{job_id}").text)
    assert page.one(id="live")["hx-sse:close"] == "end"
    with follow(browser, page.one(id="live")["hx-sse:connect"]) as told:
        first = next(told)
        assert set(parts(first)) == {"#job", "#outcome"}, "the page has its events already"
        assert "queued, number 1" in parts(first)["#job"].words
        token = run_by_worker()
        claimed = next(told)
        assert numbers(claimed) == [2]
        assert "running" in parts(claimed)["#job"].words
        with sessions.begin() as session:
            claims.enter_phase(session, token, "distil", 100)
        assert numbers(next(told)) == [3]
        with sessions.begin() as session:
            claims.progress(session, token, Progress(phase="distil", step=25, steps=100, loss=0.5))
        moved = next(told)
        assert moved["id"] == "3."
        assert parts(moved)["#job"].one("progress")["value"] == "25.0"
        with sessions.begin() as session:
            claims.metrics(session, token, [Metric(phase="distil", step=25, values={"loss": 0.5})])
        points = next(told)
        assert (points["event"], "id" in points) == ("points", False)
        assert json.loads(points["data"]) == [{"phase": "distil", "step": 25, "loss": 0.5}]
        seen = next(told)
        assert (seen["event"], seen["data"]) == ("seen", "")
        assert seen["id"].startswith("3.")
        assert len(seen["id"]) > 2
        finish(token, {"config.json": b"{}"})
        done, end = list(told)
        assert numbers(done) == [4]
        assert "Download .tar" in parts(done)["#outcome"].words
        assert end["event"] == "end"
    for message in (first, claimed, moved, done):
        for target in parts(message):
            page.one(id=target.removeprefix("#"))


def test_whoever_has_seen_all_of_a_job_that_has_ended_is_told_so_at_once(browser, job_id):
    browser.post(f"/jobs/{job_id}/cancel")
    with follow(browser, stream_of(browser, job_id)) as told:
        shown, end = list(told)
    assert (numbers(shown), end["event"], end["data"]) == ([], "end", "")


def test_a_failure_is_shown_with_its_cause_its_remedy_and_the_end_of_its_log(
    browser, job_id, sessions, run_by_worker
):
    """The log comes as it is: neither its own line ends nor its markup become the stream's or the page's."""
    log = "10 %\r20 %\r\nid: 99.\n\ndata: <b>x</b>\nevent: end\n\n\x0b\x0c\u2028\x85 é 𝛌\x1b[31m"
    log += "</pre></hx-partial>"
    with follow(browser, stream_of(browser, job_id)) as told:
        next(told)
        token = run_by_worker()
        next(told)
        with sessions.begin() as session:
            why = ends.Failure(FailureCause.INVALID_INPUT, "a bad row", "rows.3", "mend it", 3, log)
            ends.fail(session, token, why)
        failed, end = list(told)
    assert end["event"] == "end"
    assert failed["id"] == "3."
    assert parts(failed)["#outcome"].one("pre").text == log.replace("\r\n", "\n").replace("\r", "\n")
    words = parts(failed)["#job"].words
    for one in ("Invalid input", "rows.3", "A bad row.", "Mend it.", "Retry"):
        assert one in words
    page = read(browser.get(f"/jobs/{job_id}").text)
    assert page.one(id="outcome").one("pre").text == log


def test_a_long_story_arrives_whole(browser, job_id, sessions, run_by_worker):
    """More events and more points than one message holds, of a job that has ended already."""
    token = run_by_worker()
    steps = range(1, POINTS + 20)
    with sessions.begin() as session:
        for number in range(2 * BATCH):
            claims.enter_phase(session, token, ("teach", "distil")[number % 2])
        metrics = [Metric(phase=one, step=step, values={}) for one in ("teach", "distil") for step in steps]
        claims.metrics(session, token, metrics)
        ends.cancelled(session, token)
    with follow(browser, f"/jobs/{job_id}/stream") as told:
        all_of_it = list(told)
    points = [json.loads(one["data"]) for one in all_of_it if one.get("event") == "points"]
    assert [len(some) for some in points] == [POINTS, POINTS, 2 * (len(steps) - POINTS)]
    assert [(p["phase"], p["step"]) for some in points for p in some] == [(m.phase, m.step) for m in metrics]
    events = [number for one in all_of_it if "event" not in one for number in numbers(one)]
    assert events == list(range(1, 2 * BATCH + 4))
    assert [one.get("event") for one in all_of_it].count("end") == 1
    assert all_of_it[-1]["event"] == "end"


def test_cut_anywhere_and_resumed_on_another_process_it_neither_repeats_nor_skips(
    *, api, browser, browser_of, other_url, job_id, sessions, run_by_worker
):
    """A writer goes on meanwhile. Points count as seen with the next id; those after it come again."""
    token, rounds, each = run_by_worker(), 50, 3

    def write() -> None:
        for number in range(rounds):
            phase = "teach" if number < rounds // 2 else "distil"
            with sessions.begin() as session:
                claims.enter_phase(session, token, ("teach", "distil")[number % 2])
                steps = range(number * each, number * each + each)
                metrics = [Metric(phase=phase, step=step, values={"loss": step}) for step in steps]
                claims.metrics(session, token, metrics)
        with sessions.begin() as session:
            ends.cancelled(session, token)

    other = browser_of(None, other_url)
    other.cookies.set("mixkd_session", browser.cookies["mixkd_session"])
    events: list[int] = []
    points: list[tuple[str, int]] = []
    last, ended = "0.", False
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        for reader, length in zip(cycle((browser, other)), cycle((1, 2, 3, 1, 4)), strict=False):
            unconfirmed: list[tuple[str, int]] = []
            with follow(reader, f"/jobs/{job_id}/stream?seen=0.", last) as told:
                for count, message in enumerate(told, 1):
                    if message.get("event") == "points":
                        unconfirmed += [(one["phase"], one["step"]) for one in json.loads(message["data"])]
                    elif "id" in message:
                        events += numbers(message) if "event" not in message else []
                        points += unconfirmed
                        last, unconfirmed = message["id"], []
                    ended = message.get("event") == "end"
                    if count == length or ended:
                        break
            if ended:
                break
        writing.result(60)
    assert events == list(range(1, rounds + 4))  # queued, claimed, the phases, cancelled
    assert Counter(points).most_common(1)[0][1] == 1
    assert points == sorted(points, key=lambda one: (one[0] == "distil", one[1]))
    assert len(points) == rounds * each


@pytest.mark.parametrize("given", ["", "x", "1", "-1.", "1.2.3", "9" * 40 + ".", "1.\u0661", "<script>"])
def test_an_id_that_is_not_ours_says_nothing(browser, job_id, given):
    browser.post(f"/jobs/{job_id}/cancel")
    for path, last in ((f"?seen={given}", None), ("?seen=1.", given.encode())):
        with follow(browser, f"/jobs/{job_id}/stream{path}", last) as told:
            first, *_, end = list(told)
        assert numbers(first) == ([1, 2] if last is None else [2])
        assert end["event"] == "end"


@pytest.mark.parametrize("path", ["/jobs/{}/stream", "/jobs/stream"])
def test_a_stream_ends_with_its_key_and_says_no_end_to_it(*, browser, revoke_keys, sessions, job_id, path):
    path = path.format(job_id)
    with follow(browser, path) as told:
        next(told)
        revoke_keys("ada")
        with sessions.begin() as session:  # or else it would have something to tell
            wishes.pause(session, session.get_one(Job, job_id).owner_id, job_id)
        assert next(told, None) is None
    again = browser.get(path, headers={"Accept": "text/event-stream"})
    assert again.status_code == 401
    assert job_id not in again.text


@pytest.mark.parametrize("path", ["/jobs/{}/stream", "/jobs/stream"])
def test_a_quiet_stream_holds_no_database_connection_and_says_nothing(*, app, browser, job_id, path):
    reads: list[int] = []

    def count(*_: object) -> None:
        reads.append(1)

    with follow(browser, path.format(job_id)) as told:
        next(told)
        listen(app.state.engine, "checkout", count)
        try:
            until(lambda: len(reads) >= 3, what="it reads the tables again and again")
        finally:
            remove(app.state.engine, "checkout", count)
        until(lambda: app.state.engine.pool.checkedout() == 0, what="it gives its connection back")
        assert browser.post(f"/jobs/{job_id}/pause").status_code == 303
        assert "paused" in read(next(told)["data"]).words, "the next message is of the change, and no other"


# --- the list ------------------------------------------------------------------------------------------


def rows(message: dict[str, str]) -> list[str]:
    return [one["id"] for one in parts(message)["#jobs"].find("tr")]


def test_the_list_arrives_whenever_it_looks_different(api, browser, job_id, request_body, run_by_worker):
    page = read(browser.get("/jobs").text)
    [live] = [one["hx-sse:connect"] for one in page if one["hx-sse:connect"]]
    with follow(browser, live) as told:
        assert rows(next(told)) == [job_id]
        other = api.post("/v1/jobs", json=request_body).json()["id"]
        message = next(told)
        assert rows(message) == [other, job_id]
        assert "queued, number 2" in read(message["data"]).words
        run_by_worker()
        assert "running" in parts(next(told))["#jobs"].one("tr", id=job_id).words
    page.one("tbody", id="jobs")


def test_the_list_that_arrives_is_the_page_that_was_asked_for(api, browser, job_id, request_body):
    page = read(browser.get("/jobs?status=paused").text)
    [live] = [one["hx-sse:connect"] for one in page if one["hx-sse:connect"]]
    with follow(browser, live) as told:
        assert rows(next(told)) == []
        api.post("/v1/jobs", json=request_body)
        api.post(f"/v1/jobs/{job_id}/pause")
        assert rows(next(told)) == [job_id]


def test_nobody_elses_list_arrives(browser_of, job_id):
    with follow(browser_of("bob"), "/jobs/stream") as told:
        assert rows(next(told)) == []
