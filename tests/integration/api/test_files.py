"""Downloading a student's files: ranges, validators, names."""

import hashlib
import random
from base64 import b64encode
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest

CONTENT = random.Random(7).randbytes(3_000_001)  # several chunks of storage


@pytest.fixture
def job_id(api, request_body, run_by_worker, finish) -> str:
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    contents = {"config.json": b"{}", "empty": b"", "model.safetensors": CONTENT, 'odd/na me"é.txt': b"odd"}
    finish(run_by_worker(), contents)
    return job_id


@pytest.fixture
def get(api: httpx.Client, job_id: str):
    def get(path: str = "model.safetensors", method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api.request(method, f"/v1/jobs/{job_id}/student/files/{path}", headers=named)

    return get


def test_the_manifest_and_the_files_agree(api, get, job_id):
    student = api.get(f"/v1/jobs/{job_id}/student").json()
    assert student["model_id"] == api.get(f"/v1/jobs/{job_id}").json()["student_id"]
    assert [file["path"] for file in student["files"]] == sorted(file["path"] for file in student["files"])
    for file in student["files"]:
        answer = get(file["path"])
        assert answer.status_code == 200
        assert len(answer.content) == file["size"] == int(answer.headers["Content-Length"])
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        assert answer.headers["ETag"] == f'"{file["sha256"]}"'
        digest = b64encode(bytes.fromhex(file["sha256"])).decode()
        assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=1048570-1048590", 1048570, 1048591),
        ("bytes=3000000-", 3_000_000, 3_000_001),
        ("bytes=2999999-99999999", 2_999_999, 3_000_001),
        ("bytes=-2", 2_999_999, 3_000_001),
        ("bytes=-99999999", 0, 3_000_001),
        ("Bytes=5-6", 5, 7),
    ],
)
def test_a_range_is_answered_in_part(get, header, start, end):
    answer = get(Range=header)
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["Content-Length"] == str(end - start)


@pytest.mark.parametrize(
    "header", ["bytes=5-4", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,5-6", "bytes 0-1", "bytes=٣-٤"]
)
def test_a_range_that_means_nothing_is_ignored(get, header):
    answer = get(Range=header.encode("utf-8"))
    assert answer.status_code == 200
    assert answer.content == CONTENT


@pytest.mark.parametrize(("path", "header"), [("model.safetensors", "bytes=3000001-"), ("empty", "bytes=0-")])
def test_a_range_past_the_end_cannot_be_had(get, path, header):
    answer = get(path, Range=header)
    assert answer.status_code == 416
    assert answer.headers["Content-Type"] == "application/problem+json"
    size = 0 if path == "empty" else len(CONTENT)
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_a_download_resumes_only_on_the_same_content(get):
    etag = get(method="HEAD").headers["ETag"]
    assert get(Range="bytes=10-", If_Range=etag).content == CONTENT[10:]
    for other in ('"0123"', f"W/{etag}", "Mon, 23 Nov 2026 07:00:00 GMT"):
        answer = get(Range="bytes=10-", If_Range=other)
        assert (answer.status_code, len(answer.content)) == (200, len(CONTENT))


def test_what_one_has_is_not_sent_again(get):
    etag = get(method="HEAD").headers["ETag"]
    for header in (etag, f"W/{etag}", f'"0123", {etag}', "*"):
        answer = get(If_None_Match=header, Range="bytes=0-1")
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == etag
    assert get(If_None_Match='"0123"').status_code == 200


def test_head_says_what_get_would(get):
    head, whole = get(method="HEAD"), get()
    assert head.content == b""
    for name in ("Content-Length", "ETag", "Accept-Ranges", "Content-Type", "Content-Disposition"):
        assert head.headers[name] == whole.headers[name]
    part = get(method="HEAD", Range="bytes=1-2")
    assert (part.status_code, part.headers["Content-Length"], part.content) == (206, "2", b"")


def test_a_file_is_saved_under_its_own_name_and_never_shown_as_a_page(get):
    headers = get('odd/na me"é.txt').headers
    assert headers["Content-Disposition"] == (
        "attachment; filename=\"na_me__.txt\"; filename*=UTF-8''na%20me%22%C3%A9.txt"
    )
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "",
        "../report.json",
        "%2e%2e/report.json",
        "..%2freport.json",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "config.json%00",
        "./config.json",
        "odd/../config.json",
        "odd//config.json",
        "CONFIG.JSON",
    ],
)
def test_only_names_of_the_manifest_are_found(api, settings, job_id, path):
    storage = Path(settings.storage_url.removeprefix("file://"))
    (storage / f"jobs/{job_id}/1/report.json").write_text("secret")
    # httpx would tidy the path
    connection = HTTPConnection(api.base_url.host, api.base_url.port or 80, timeout=10)
    with closing(connection):
        connection.request("GET", f"/v1/jobs/{job_id}/student/files/{path}", headers=dict(api.headers))
        answer = connection.getresponse()
        text = answer.read().decode()
    assert answer.status == 404
    assert "secret" not in text
    assert str(storage) not in text


def test_a_file_that_storage_has_lost_is_our_fault_and_says_no_path(api, settings, get, job_id):
    storage = Path(settings.storage_url.removeprefix("file://"))
    (storage / f"jobs/{job_id}/1/student/config.json").unlink()
    for method in ("GET", "HEAD"):
        answer = get("config.json", method)
        assert answer.status_code == 500
        assert str(storage) not in answer.text
