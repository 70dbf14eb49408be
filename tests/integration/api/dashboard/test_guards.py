"""What stands before every page: nobody without a session, no change from elsewhere, nothing but our files.

The routes are those of the application, so that a new one cannot be forgotten.
"""

import re
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.dashboard.browser import HEADERS
from core.ids import new_id
from tests.support.pages import BROWSER, offences, read

NOT_PAGES = ("/v1/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/static")
OPEN = ("/", "/sign-in", "/sign-out")
NAME = "<script>alert('“ü”')</script>\"' onload=x"


def routes(app: FastAPI, job_id: str) -> list[tuple[str, str]]:
    """Every method and address of the dashboard, with this job in its place."""
    given = {"job_id": job_id, "path": "config.json", "wish": "cancel"}
    found = []
    for route in iter_route_contexts(app.routes):
        if not route.path.startswith(NOT_PAGES):
            path = re.sub(r"{(\w+)(:\w+)?}", lambda part: given[part[1]], route.path)
            found += [(method, path) for method in route.methods or ()]
    assert len(found) > 15
    return sorted(found)


@pytest.fixture
def done(api, request_body, run_by_worker, finish) -> str:
    """A job of ada's with a student."""
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    finish(run_by_worker(), {"config.json": b"{}"})
    return job_id


@pytest.fixture
def pages(*, app, api, add_teacher, add_dataset, run_by_worker, done) -> list[str]:
    """Every page, with something to show on it that was named by somebody with bad intentions."""
    refused = {"refusal": {"detail": NAME, "errors": []}, "status": "refused"}
    add_teacher(name=NAME, info=None, source=NAME, files=None, **refused)
    add_dataset(name=NAME, report=None, fingerprint=None, **refused)
    named = {"teacher_id": add_teacher(name=NAME), "dataset_id": add_dataset(name=NAME), "name": NAME}
    job_id = api.post("/v1/jobs", json=named).json()["id"]
    run_by_worker()
    paths = [path for method, path in routes(app, job_id) if method == "GET" and "stream" not in path]
    return [*paths, f"/jobs/{done}"]


# --- whoever has not signed in ------------------------------------------------------------------------


def test_no_page_opens_without_a_session(app, stranger, done):
    for method, path in routes(app, done):
        if path in OPEN:
            continue
        answer = stranger.request(method, path)
        back_to = quote(path if method == "GET" else "/", safe="")
        assert answer.status_code == 303, (method, path)
        assert answer.headers["Location"] == f"/sign-in?next={back_to}", (method, path)


def test_a_key_opens_no_page_and_a_session_does_not_open_the_api(app, api, browser, done):
    for method, path in routes(app, done):
        if path not in OPEN:
            headers = {**BROWSER, "Origin": str(api.base_url)}
            assert api.request(method, path, headers=headers).status_code == 303, (method, path)
    answer = browser.get("/v1/jobs")
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")
    assert browser.post("/v1/jobs", json={}).status_code == 401


# --- another owner ------------------------------------------------------------------------------------


def test_another_owners_jobs_do_not_exist(app, api, browser_of, done):
    bob, nobodys = browser_of("bob"), new_id("job")
    before = api.get(f"/v1/jobs/{done}/events").json()
    paths = [(method, path) for method, path in routes(app, done) if done in path]
    assert len(paths) >= 10
    for method, path in paths:
        theirs, none = bob.request(method, path), bob.request(method, path.replace(done, nobodys))
        assert theirs.status_code == none.status_code == 404, (method, path)
        if method != "HEAD":
            same = theirs.text.replace(theirs.headers["X-Request-ID"], none.headers["X-Request-ID"])
            assert same == none.text.replace(nobodys, done)
    for wish in ("pause", "resume", "finish", "retry"):
        assert bob.post(f"/jobs/{done}/{wish}").status_code == 404
    assert api.get(f"/v1/jobs/{done}/events").json() == before
    assert done not in bob.get("/jobs").text
    for table, name in (("datasets", "questions"), ("models", "MiniLM")):
        assert name not in bob.get(f"/{table}").text


# --- changes from elsewhere ---------------------------------------------------------------------------


ELSEWHERE = [
    None,
    "null",
    "",
    "https://evil.example",
    "http://127.0.0.1",  # another port
    "http://127.0.0.1:1@{host}",
    "http://{host}.evil.example",
    "http://{host}@evil.example",
    "{host}",
    "//{host}",
    "http://[",
]


def sent_from(browser: httpx.Client, origin: str | None, method: str, path: str) -> httpx.Response:
    request = browser.build_request(method, path, data={"key": "0" * 32})
    del request.headers["Origin"]
    if origin is not None:
        request.headers["Origin"] = origin.format(host=request.headers["Host"])
    return browser.send(request)


@pytest.mark.parametrize("origin", ELSEWHERE)
def test_no_change_comes_from_another_site(app, api, browser, job_id, origin):
    changes = [one for one in routes(app, job_id) if one[0] not in ("GET", "HEAD")]
    assert {path for _, path in changes} >= {"/sign-in", "/sign-out", "/jobs/new", f"/jobs/{job_id}/cancel"}
    for method, path in changes:
        answer = sent_from(browser, origin, method, path)
        assert answer.status_code == 403, (method, path)
        assert "did not come from a page of this service" in read(answer.text).one("main").words
        assert "Set-Cookie" not in answer.headers
    [job] = api.get("/v1/jobs").json()["items"]
    assert (job["id"], job["status"]) == (job_id, "queued")
    assert browser.get("/jobs").status_code == 200


def test_changes_come_from_our_own_pages(app, browser, job_id):
    changes = [path for method, path in routes(app, job_id) if method == "POST" and path != "/sign-out"]
    for path in [*changes, "/sign-out"]:
        assert browser.post(path, data={"key": "0" * 32}).status_code in (303, 401, 422), path


def test_a_proxy_may_speak_https(browser, job_id):
    """Behind one, the browser's Origin is of another scheme than what arrives."""
    host = browser.base_url.netloc.decode()
    answer = browser.post(f"/jobs/{job_id}/pause", headers={"Origin": f"https://{host}"})
    assert answer.status_code == 303


# --- what a page may load and run ----------------------------------------------------------------------


def check(answer: httpx.Response) -> None:
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value], f"{name} of {answer.url}"
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert {one for name, one in policy.items() if name.endswith(("-src", "action"))} <= {"'none'", "'self'"}


def test_every_page_has_the_headers_and_nothing_that_they_would_stop(browser, pages):
    shown = 0
    for path in pages:
        answer = browser.get(path)
        assert answer.status_code in (200, 303, 404), path  # of a job that runs there is no student
        if answer.status_code != 303 and answer.headers["Content-Type"].startswith("text/html"):
            check(answer)
            assert offences(answer.text) == [], path
            assert "<script>alert" not in answer.text, path
            shown += "&lt;script&gt;alert" in answer.text
    assert shown == 5, "the list, the job, the form's choices, data sets and models show the name"


def test_redirects_errors_and_streams_have_the_headers(browser, stranger, job_id):
    browser.post(f"/jobs/{job_id}/cancel")
    for answer in (
        stranger.get("/"),
        stranger.get("/jobs"),
        stranger.get("/nowhere"),
        browser.get("/jobs?limit=0"),
        browser.get(f"/jobs/{job_id}/report.json"),
        browser.request("PATCH", "/jobs"),
        browser.get("/nowhere", headers={"Accept": "application/json"}),
        browser.get("/nowhere", headers={"HX-Request": "true"}),
        sent_from(browser, "null", "POST", "/sign-out"),
    ):
        assert answer.status_code in (303, 403, 404, 405, 422)
        check(answer)
        assert answer.headers.get("Content-Type") == "application/problem+json" or not offences(answer.text)
    stream = browser.get(f"/jobs/{job_id}/stream")
    assert stream.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]
    assert stream.headers["X-Content-Type-Options"] == "nosniff"


def test_a_students_files_are_saved_and_never_shown(browser, done):
    answer = browser.get(f"/jobs/{done}/student/files/config.json")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    "html",
    [
        "<p style='color: red'>",
        "<p onclick='x()'>",
        "<script>x()</script>",
        "<script src='https://evil.example/x.js'></script>",
        "<a href='//evil.example'>",
        "<a href='javascript:x()'>",
        "<style>p {}</style>",
    ],
)
def test_the_check_itself_finds_what_must_not_be(html):
    end = re.match(r"<(\w+)", html)[1]
    assert len(offences(html if "</" in html else f"{html}</{end}>")) == 1
