"""An error, wherever it arose: a page for a browser, a fragment for htmx, a problem document for the rest."""

import httpx
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from api.middleware import JSON_LIMIT
from core.jobs import service
from tests.support.pages import BROWSER, read

SECRET = "password=hunter2 at /srv/secret/place.py"


@pytest.fixture
def away(replace, tmp_path):
    """Call it, and the database is away."""
    engine = create_engine(f"postgresql+psycopg://mixkd@/mixkd?host={tmp_path}")
    yield lambda: replace("sessions", sessionmaker(engine))
    engine.dispose()


@pytest.fixture
def ask(browser, job_id, monkeypatch, away):
    """`ask(404, **headers)`: a request of ada's that ends in this status."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(SECRET)

    def ask(status: int, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        method, path, body = "GET", f"/jobs/{job_id}", b""
        match status:
            case 403:
                method, path, named["Origin"] = "POST", f"/jobs/{job_id}/cancel", "https://evil.example"
            case 404:
                path = "/jobs/job_01aaaaaaaaaaaaaaaaaaaaaaaa"
            case 405:
                method = "PUT"
            case 409:
                method, path = "POST", f"/jobs/{job_id}/finish"
            case 413:
                method, path, body = "POST", "/jobs/new", bytes(JSON_LIMIT + 1)
            case 422:
                path = "/jobs?limit=0"
            case 500:
                monkeypatch.setattr(service, "get", broken)
            case 503:
                away()
        return browser.request(method, path, headers=named, content=body)

    return ask


STATUSES = [403, 404, 405, 409, 413, 422, 500, 503]


@pytest.mark.parametrize("status", STATUSES)
def test_a_browser_gets_a_page_that_says_what_to_do(ask, status):
    answer = ask(status, X_Request_ID="my-id.1")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    page = read(answer.text)
    assert len(page.find("h1")) == len(page.find("title")) == 1
    words = page.one("main").words
    assert str(status) in words
    assert "To the jobs" in words
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    for leak in ("hunter2", "/srv", "Traceback", "RuntimeError", "psycopg"):
        assert leak not in answer.text
    if status != 403:  # what comes from elsewhere is not let near the service, nor into its log
        assert answer.headers["X-Request-ID"] == "my-id.1"
        assert page.one("main").find("code")[-1].text == "my-id.1"
    assert answer.headers.get("Retry-After") == ("5" if status == 503 else None)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "a proxy, let that pass the Host header"),
        (409, "let it run first"),
        (422, "choose 1 or more"),
        (503, "the database does not answer at present"),
    ],
)
def test_the_page_has_the_remedy(ask, status, words):
    assert words.lower() in read(ask(status).text).one("main").words.lower()


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/event-stream", "image/*", ""])
def test_whoever_wants_no_page_gets_a_problem_document(ask, status, accept):
    answer = ask(status, Accept=accept)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == status


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("accept", [BROWSER["Accept"], "*/*", "text/event-stream"])
def test_htmx_gets_a_notice_and_where_it_belongs(ask, status, accept):
    answer = ask(status, HX_Request="true", Accept=accept)
    assert answer.status_code == status
    assert answer.headers["HX-Retarget"] == "#notice"
    assert answer.headers["HX-Reswap"] == "innerHTML"
    part = read(answer.text)
    assert part.one(role="alert").words
    assert part.find("html") == part.find("main") == []
    assert "hunter2" not in answer.text


def test_every_page_has_the_place_of_notices(browser, job_id):
    for path in ("/jobs", "/jobs/new", f"/jobs/{job_id}", "/datasets", "/models", "/workers"):
        assert read(browser.get(path).text).one(id="notice")["aria-live"] == "polite"


@pytest.mark.parametrize("accept", [BROWSER["Accept"], "*/*"])
def test_htmx_is_sent_to_sign_in_as_a_whole(stranger, job_id, accept):
    """A 303 would be followed by the request itself, and the form put into the middle of a page."""
    job = f"/jobs/{job_id}"
    for method, path in (("POST", f"{job}/cancel"), ("GET", job), ("POST", "/jobs/new")):
        answer = stranger.request(method, path, headers={"HX-Request": "true", "Accept": accept})
        assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/sign-in")
        assert answer.content == b""


def test_whoever_wants_no_page_is_told_to_sign_in(stranger):
    answer = stranger.get("/jobs", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_what_a_request_says_is_shown_as_text(browser, stranger):
    evil = "<script>alert(1)</script>"
    for answer in (
        browser.get("/jobs", params={evil: evil}),
        browser.get("/jobs", params={"cursor": evil}),
        browser.get("/jobs", params={"status": evil}),
        browser.post(f"/jobs/job_01aaaaaaaaaaaaaaaaaaaaaaaa/{evil.replace('/', '')}"),
        stranger.post("/sign-in", data={"key": evil, "next": f"/{evil}"}),
        stranger.get("/sign-in", params={"next": f'/"{evil}'}),
        stranger.get(f"/{evil}"),
    ):
        assert answer.status_code in (200, 401, 404, 422)
        assert "<script>alert" not in answer.text
        read(answer.text)


def test_an_unknown_wish_is_not_there(browser, job_id):
    assert browser.post(f"/jobs/{job_id}/explode").status_code == 404


def test_a_form_that_cannot_be_read_is_refused(browser, job_id):
    """Neither a file, nor a hundred and one fields, nor half a body is a fault of ours."""
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"--x\r\nContent-Disposition: form-data; name", b"", b"\xff\xfe", b"--x\r\n\r\n\r\n--x--"):
        assert browser.post("/jobs/new", content=body, headers=multipart).status_code in (400, 422)
    assert browser.post("/jobs/new", files={"recipe": b"{}"}).status_code == 400
    many = "&".join(f"field{number}=1" for number in range(2000))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert browser.post("/jobs/new", content=many, headers=form).status_code in (400, 422)
    assert browser.post("/jobs/new", json={"teacher_id": "x"}).status_code == 422
    assert browser.post("/sign-in", files={"key": b"mixkd_x"}).status_code == 400
