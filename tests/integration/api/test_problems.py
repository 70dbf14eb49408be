"""Errors as documents: what they say, and what they never say. And the limits that cause some."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from api.middleware import JSON_LIMIT
from api.problems import shown
from core.queue import Queue
from core.storage import Storage, set_up

MEMBERS = {"type", "title", "status", "detail", "code", "request_id", "errors"}


@pytest.fixture
def replace(app: FastAPI, base_url: str) -> Iterator[Callable[[str, object], None]]:
    """Put something else in the place of a part of the running application, for one test."""
    parts = {name: getattr(app.state, name) for name in ("sessions", "queue", "storage")}
    yield lambda name, part: setattr(app.state, name, part)
    for name, part in parts.items():
        setattr(app.state, name, part)


def check(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == MEMBERS
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:mixkd:problem:{code}"
    assert document["request_id"] == answer.headers["X-Request-ID"] != ""
    return document


def test_every_kind_of_error_is_a_problem_document(api, client_of):
    as_json = {"Content-Type": "application/json"}
    check(client_of(None).get("/v1/jobs"), 401, "unauthenticated")
    check(api.get("/v1/nothing"), 404, "not_found")
    check(api.get("/nothing"), 404, "not_found")
    check(api.put("/v1/jobs"), 405, "method_not_allowed")
    check(api.post("/v1/jobs", content=b'{"a":', headers=as_json), 422, "invalid_input")
    for unreadable in (b"[" * 100_000, b'{"name": "\xff"}', b"9" * 5000):
        document = check(api.post("/v1/jobs", content=unreadable, headers=as_json), 400, "bad_request")
        assert document["errors"][0]["field"] == "body"
    for body in (b"", b"null", b"[]", b'"x"', b"7"):
        document = check(api.post("/v1/jobs", content=body, headers=as_json), 422, "invalid_input")
        assert document["errors"][0]["field"] == "body"
        assert "JSON object" in document["errors"][0]["remedy"]
    check(api.post("/v1/jobs", data={"teacher_id": "x"}), 422, "invalid_input")


def test_an_error_that_is_about_no_body_names_its_header_path_or_id(api, client_of):
    unknown = "job_" + "0" * 26

    def entry(answer: httpx.Response) -> tuple[str, object]:
        (error,) = answer.json()["errors"]
        assert error["problem"]
        assert error["remedy"]
        return error["field"], error["value"]

    assert entry(client_of(None).get("/v1/jobs")) == ("Authorization", None)
    wrong = {"Authorization": "Bearer mixkd_wrong"}
    assert entry(client_of(None).get("/v1/jobs", headers=wrong)) == ("Authorization", None)
    assert entry(api.get(f"/v1/jobs/{unknown}")) == ("job_id", unknown)
    assert entry(api.get("/v1/models/odd")) == ("model_id", "odd")
    assert entry(api.get("/v1/nothing")) == ("path", "/v1/nothing")
    assert entry(api.put("/v1/jobs")) == ("method", "PUT")


@pytest.mark.parametrize(
    "path", ["/v1/keys", "/v1/jobs/ID", "/v1/jobs/ID/attempts", "/v1/jobs/ID/report", "/v1/jobs/ID/student"]
)
def test_a_route_without_a_query_refuses_one(api, path):
    answer = api.get(path.replace("ID", "job_" + "0" * 26), params={"limt": 3})
    document = check(answer, 422, "invalid_input")
    assert [(e["field"], e["value"], e["problem"]) for e in document["errors"]] == [
        ("limt", "3", "no such field")
    ]


@pytest.mark.parametrize(
    ("path", "remedy"),
    [("/v1/jobs", "did you mean 'limit'?"), (f"/v1/jobs/job_{'0' * 26}/events/stream", "leave it out")],
)
def test_a_route_with_a_query_refuses_another(api, path, remedy):
    document = check(api.get(path, params={"limt": 3}), 422, "invalid_input")
    (error,) = document["errors"]
    assert (error["field"], error["value"]) == ("limt", "3")
    assert error["remedy"].startswith(remedy)


def test_a_fault_of_ours_says_nothing_but_its_id(api, replace, caplog):
    def broken() -> None:
        raise RuntimeError("password=hunter2 at /srv/secret/place.py")

    replace("sessions", broken)
    document = check(api.get("/v1/jobs", headers={"X-Request-ID": "my-id.1"}), 500, "internal")
    assert document["request_id"] == "my-id.1"
    text = json.dumps(document)
    for leak in ("hunter2", "/srv", "Traceback", "RuntimeError", ".py"):
        assert leak not in text
    assert "hunter2" in caplog.text, "the operator must be able to find the reason"


def test_a_database_that_is_away_is_a_503_to_try_again(api, replace, tmp_path):
    away = create_engine(f"postgresql+psycopg://mixkd@/mixkd?host={tmp_path}")
    replace("sessions", sessionmaker(away))
    answer = api.get("/v1/jobs")
    document = check(answer, 503, "unavailable")
    assert answer.headers["Retry-After"].isdecimal()
    assert str(tmp_path) not in json.dumps(document)


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "<script>"])
def test_an_odd_request_id_is_not_repeated(api, given):
    answer = api.get("/healthz", headers={"X-Request-ID": given})
    assert answer.headers["X-Request-ID"] not in ("", given)


def test_values_are_short_and_secrets_are_not_repeated():
    assert shown("name", "x" * 1000) == "x" * 200 + "…"
    assert shown("hub_token", "abc") is None
    assert shown("api-key", "abc") is None
    assert shown("tokenizer", "abc") == "abc"
    assert shown("name", "mixkd_0123456789abcdef0123") == "mixkd_***"
    assert shown("source", "https://ada:pw@example.org/x") == "https://ada:***@example.org/x"
    assert shown("source", "https://token@example.org/x") == "https://***@example.org/x"
    assert shown("recipe", {"password": "pw"}) == "an object with 1 members"
    assert shown("labels", ["a", {"password": "pw"}]) == ["a", "…"]
    assert shown("x", float("nan")) == "nan"
    assert shown("x", 10**40) == "1" + "0" * 40


def test_a_lone_surrogate_and_infinity_do_not_break_the_answer(api, request_body):
    start = json.dumps(request_body)[:-1]
    for rest, fields in [
        (', "name": "\\ud800", "priority": 1e999}', {"name", "priority"}),
        (', "\\udfff": 1}', {"body"}),
        (', "recipe": {"\\udfff": NaN}}', {"recipe"}),
    ]:
        answer = api.post(
            "/v1/jobs", content=(start + rest).encode(), headers={"Content-Type": "application/json"}
        )
        document = check(answer, 422, "invalid_input")
        assert {error["field"] for error in document["errors"]} == fields


# --- limits -------------------------------------------------------------------------------------


def raw(api: httpx.Client, headers: list[str], body: bytes = b"") -> bytes:
    """What the server says to a request that no client library would send."""
    address = (api.base_url.host, api.base_url.port)
    key = f"Authorization: {api.headers['Authorization']}"
    head = "\r\n".join(["POST /v1/jobs HTTP/1.1", "Host: x", key, "Content-Type: application/json", *headers])
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))  # it closes such a connection


def test_a_body_that_says_that_it_is_too_large_is_refused_at_once(api):
    answer = raw(api, [f"Content-Length: {JSON_LIMIT + 1}"])  # and not a byte of it sent
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer
    (error,) = json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert (error["field"], error["value"]) == ("body", JSON_LIMIT + 1)
    assert str(JSON_LIMIT) in error["problem"]


def test_a_body_that_turns_out_to_be_too_large_is_stopped(api):
    def chunks():
        for _ in range(40):
            yield b" " * 65536

    answer = api.post("/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"})
    check(answer, 413, "too_large")


def test_a_body_at_the_limit_is_read(api, request_body):
    body = json.dumps(request_body).encode()
    padded = body + b" " * (JSON_LIMIT - len(body))
    assert (
        api.post("/v1/jobs", content=padded, headers={"Content-Type": "application/json"}).status_code == 201
    )


# --- the document of it all ---------------------------------------------------------------------


def test_openapi_describes_every_route_and_its_errors(client_of):
    document = client_of(None).get("/openapi.json").json()
    operations = [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids))
    for name, operation in operations:
        assert operation["summary"], name
        assert operation["description"], name
        assert not any(parameter["name"] == "session" for parameter in operation.get("parameters", [])), name
        if " /v1/" in name:
            assert operation["security"] == [{"HTTPBearer": []}], name
            for status in ("401", "404", "422"):
                assert list(operation["responses"][status]["content"]) == ["application/problem+json"], name
    assert document["components"]["schemas"]["JobCreate"]["examples"]
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_the_reference_page_names_every_route(client_of):
    page = Path("docs/reference/http-api.md").read_text()
    paths = client_of(None).get("/openapi.json").json()["paths"]
    assert len(paths) > 15
    for path, methods in paths.items():
        short = re.sub(r"\{\w+_id\}", "{id}", path)  # the page writes {id} for each
        for method in methods:
            assert re.search(rf"{method.upper()}\b[^|]*? {re.escape(short)}[`?]", page), f"{method} {path}"


# --- health -------------------------------------------------------------------------------------


def test_health_needs_no_key_and_readiness_names_what_is_down(client_of, replace, tmp_path):
    stranger = client_of(None)
    assert stranger.get("/healthz").json() == {"status": "ok"}
    assert stranger.get("/readyz").json() == {"status": "ready", "parts": ["database", "broker", "storage"]}
    folder = tmp_path / "storage"
    set_up(f"file://{folder}")
    replace("queue", Queue(f"redis+socket://{tmp_path}/none"))
    replace("storage", Storage(f"file://{folder}"))
    shutil.rmtree(folder)
    answer = stranger.get("/readyz")
    document = check(answer, 503, "unavailable")
    assert [error["field"] for error in document["errors"]] == ["broker", "storage"]
    assert str(tmp_path) not in answer.text
    assert stranger.get("/healthz").status_code == 200
