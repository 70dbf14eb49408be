"""A student as one archive: its bytes, its length before them, and what happens when storage fails it."""

import hashlib
import io
import random
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

import mixkd_client
from api import archive
from api.archive import Member
from api.main import create_app
from core.storage import CHUNK, CorruptFileError, StoredFile
from mixkd_client._cli import main
from tests.support.breaking_proxy import breaking

KINDS = ("tar", "zip")
LONG = "/".join(["a-folder-with-a-long-name"] * 9) + "/vocabulary.txt"  # longer than a tar header's name
CONTENTS = {
    "model.safetensors": random.Random(7).randbytes(3_000_001),  # several chunks of storage
    "config.json": b"{}",
    "empty": b"",
    "onnx/model.onnx": random.Random(8).randbytes(512),  # a tar's block to the byte
    'odd/na me"é.txt': b"odd",
    LONG: b"long",
}


@pytest.fixture
def job_id(api, request_body, run_by_worker, finish) -> str:
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    finish(run_by_worker(), CONTENTS)
    return job_id


@pytest.fixture
def get(api: httpx.Client, job_id: str):
    def get(kind: str, method: str = "GET", **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api.request(method, f"/v1/jobs/{job_id}/student.{kind}", headers=named)

    return get


@pytest.fixture
def stored(settings, job_id) -> Path:
    """The student's folder in storage."""
    return Path(settings.storage_url.removeprefix("file://")) / f"jobs/{job_id}/1/student"


def unpacked(kind: str, content: bytes) -> dict[str, bytes]:
    """Names in the archive's own order, and what the files hold."""
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            assert packed.testzip() is None
            return {entry.filename: packed.read(entry) for entry in packed.infolist()}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as packed:
        return {entry.name: packed.extractfile(entry).read() for entry in packed}


# --- what is in it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_every_file_by_path_in_one_folder(get, job_id, kind):
    answer = get(kind)
    assert answer.status_code == 200
    assert len(answer.content) == int(answer.headers["Content-Length"])
    found = unpacked(kind, answer.content)
    assert found == {f"{job_id}-student/{path}": content for path, content in CONTENTS.items()}
    assert list(found) == sorted(found)


def test_who_packed_it_and_when_is_not_told(get):
    with tarfile.open(fileobj=io.BytesIO(get("tar").content)) as packed:
        kept = {(e.mtime, e.mode, e.uid, e.gid, e.uname, e.gname, e.type) for e in packed}
    assert kept == {(315_532_800, 0o644, 0, 0, "", "", tarfile.REGTYPE)}
    with zipfile.ZipFile(io.BytesIO(get("zip").content)) as packed:
        kept = {(e.date_time, e.external_attr >> 16, e.compress_type, e.extra) for e in packed.infolist()}
    assert kept == {((1980, 1, 1, 0, 0, 0), 0o100644, zipfile.ZIP_STORED, b"")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_are_the_same_every_time_and_on_every_server(api, settings, get, job_id, kind):
    first, second = get(kind), get(kind)
    with TestClient(create_app(settings), headers=dict(api.headers)) as other:
        third = other.get(f"/v1/jobs/{job_id}/student.{kind}")
    assert first.content == second.content == third.content
    assert first.headers["ETag"] == second.headers["ETag"] == third.headers["ETag"]


@pytest.mark.parametrize(
    ("kind", "sha256"),
    [
        ("tar", "fcfd1b8e4b124fa1a5ca699ca75a05dc066b57d792e39705d0a011f4acc70bc4"),
        ("zip", "70c87479342e1b1d880798a119dad8a1e0443245183710f7d319212138451b04"),
    ],
)
def test_the_bytes_are_those_of_this_version(kind, sha256):
    """Other bytes under the same tag would be wrong in a cache: raise `archive.VERSION` with these."""
    inside = [Member(f"top/{path}", path, promised(content)) for path, content in sorted(CONTENTS.items())]
    made = b"".join(archive.parts(kind, inside, lambda member: iter([CONTENTS[member.key]])))
    assert archive.VERSION == 1
    assert hashlib.sha256(made).hexdigest() == sha256


def promised(content: bytes) -> StoredFile:
    return StoredFile(len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    ("kind", "command"), [("tar", ["tar", "-tf"]), ("zip", [sys.executable, "-m", "zipfile", "-t"])]
)
def test_the_usual_tools_read_it(get, tmp_path, kind, command):
    path = tmp_path / f"student.{kind}"
    path.write_bytes(get(kind).content)
    run = subprocess.run([*command, path], capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    assert not run.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_without_files_is_an_empty_archive(api, request_body, run_by_worker, finish, kind):
    job_id = api.post("/v1/jobs", json=request_body).json()["id"]
    finish(run_by_worker(), {})
    answer = api.get(f"/v1/jobs/{job_id}/student.{kind}")
    assert (answer.status_code, unpacked(kind, answer.content)) == (200, {})


# --- HTTP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "media_type"), [("tar", "application/x-tar"), ("zip", "application/zip")])
def test_head_says_what_get_would(get, job_id, kind, media_type):
    head, whole = get(kind, "HEAD"), get(kind)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Length", "ETag", "Accept-Ranges", "Content-Type", "Content-Disposition"):
        assert head.headers[name] == whole.headers[name]
    assert int(head.headers["Content-Length"]) == len(whole.content)
    assert whole.headers["Content-Type"] == media_type
    assert f'filename="{job_id}-student.{kind}"' in whole.headers["Content-Disposition"]
    assert whole.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("kind", KINDS)
def test_head_looks_at_the_last_byte_of_each_file_and_reads_no_more(api, settings, job_id, kind):
    app, asked = create_app(settings), []
    with TestClient(app, headers=dict(api.headers)) as client:  # it returns when the server is done
        read = app.state.storage.read
        app.state.storage.read = lambda key, *span: asked.append(span) or read(key, *span)
        assert client.head(f"/v1/jobs/{job_id}/student.{kind}").status_code == 200
    assert asked == [
        (max(len(content) - 1, 0), len(content) or None) for _, content in sorted(CONTENTS.items())
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_has_is_not_sent_again(get, kind):
    etag = get(kind, "HEAD").headers["ETag"]
    assert etag.startswith('"')
    for header in (etag, f"W/{etag}", f'"0123", {etag}', "*"):
        answer = get(kind, If_None_Match=header)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == etag
    assert get(kind, If_None_Match='"0123"').status_code == 200


def test_a_range_is_ignored_as_announced(get):
    answer = get("tar", Range="bytes=0-9")
    assert answer.headers["Accept-Ranges"] == "none"
    assert (answer.status_code, len(answer.content)) == (200, int(answer.headers["Content-Length"]))


def test_the_tag_tells_apart_all_that_the_bytes_follow_from():
    def tag(kind="tar", name="top/a", size=1, sha256="00"):
        return archive.etag(kind, [Member(name, "key", StoredFile(size, sha256))])

    tags = [tag(), tag("zip"), tag(name="top/b"), tag(size=2), tag(sha256="01"), archive.etag("tar", [])]
    assert len(set(tags)) == len(tags)
    assert archive.etag("tar", [Member("top/a", "elsewhere", StoredFile(1, "00"))]) == tag()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_nobody_elses_student_and_none_before_success(*, api, client_of, request_body, job_id, kind, method):
    path = f"/v1/jobs/{job_id}/student.{kind}"
    etag = api.head(path).headers["ETag"]
    bob = client_of("bob")
    assert bob.request(method, path).status_code == 404
    assert bob.request(method, path, headers={"If-None-Match": etag}).status_code == 404
    waiting = api.post("/v1/jobs", json=request_body).json()["id"]
    answer = api.request(method, f"/v1/jobs/{waiting}/student.{kind}")
    assert answer.status_code == 404
    if method == "GET":
        assert "the job is queued" in answer.json()["detail"]
    assert client_of(None).request(method, path).status_code == 401


def test_there_are_no_other_kinds(api, job_id):
    for kind in ("rar", "tar.gz", ""):
        assert api.get(f"/v1/jobs/{job_id}/student.{kind}").status_code == 404


# --- when storage is not as it should be -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["empty", "config.json", "model.safetensors"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_lost_file_is_found_before_the_answer_begins(*, get, settings, stored, kind, path, method):
    (stored / path).unlink()
    answer = get(kind, method)
    assert answer.status_code == 500
    assert settings.storage_url.removeprefix("file://") not in answer.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("lost", [1, 2_500_000])
def test_a_shortened_file_is_found_before_the_answer_begins(get, stored, kind, method, lost):
    whole = CONTENTS["model.safetensors"]
    (stored / "model.safetensors").write_bytes(whole[:-lost])
    assert get(kind, method).status_code == 500


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", sorted(CONTENTS.keys() - {"empty"}))
def test_a_damaged_file_cuts_the_answer_short(api, job_id, stored, kind, path):
    """Of the right size, so that only its SHA-256 tells; the first file, the last, and those between."""
    (stored / path).write_bytes(bytes(len(CONTENTS[path])))
    arrived = cut_short(api, f"/v1/jobs/{job_id}/student.{kind}")
    with pytest.raises((tarfile.ReadError, zipfile.BadZipFile)):
        unpacked(kind, arrived)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_that_is_not_empty_cuts_the_answer_short(api, job_id, stored, kind):
    (stored / "empty").write_bytes(b"more than was promised")
    cut_short(api, f"/v1/jobs/{job_id}/student.{kind}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["gone", "shorter"])
def test_a_file_lost_while_it_is_sent_cuts_the_answer_short(*, api, app, job_id, monkeypatch, kind, how):
    read, asked = app.state.storage.read, []

    def losing(key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        if key.endswith("model.safetensors") and start == 0:  # not the look at its last byte
            asked.append(end)
            if how == "gone":
                raise FileNotFoundError(key)
            return read(key, start, 2_000_000)
        return read(key, start, end)

    monkeypatch.setattr(app.state.storage, "read", losing)
    arrived = cut_short(api, f"/v1/jobs/{job_id}/student.{kind}")
    assert asked == [3_000_001]
    assert CONTENTS["config.json"] in arrived


def cut_short(api: httpx.Client, path: str) -> bytes:
    """What arrived of an answer that began well and broke off."""
    arrived: list[bytes] = []
    with api.stream("GET", path) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            arrived.extend(answer.iter_raw())
        assert len(b"".join(arrived)) < int(answer.headers["Content-Length"])
    return b"".join(arrived)


def test_the_end_of_a_file_is_sent_only_once_all_of_it_is_right():
    class Fake:
        def read(self, key, start, end):
            return iter([b"abc", b"def"])

    def read(size: int, content: bytes) -> Iterator[bytes]:
        file = StoredFile(size, hashlib.sha256(content).hexdigest())
        return archive.checked(Fake(), Member("top/a", "a", file))

    assert b"".join(read(6, b"abcdef")) == b"abcdef"
    for size, content in ((5, b"abcdef"), (7, b"abcdef"), (6, b"abcdeF"), (0, b"")):
        passed_on = []
        with pytest.raises(CorruptFileError):
            passed_on.extend(read(size, content))
        assert b"".join(passed_on) == b"abc"


# --- the client ----------------------------------------------------------------------------------------


@pytest.fixture
def key(api) -> str:
    return api.headers["Authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_fetches_it_whole_over_a_connection_that_breaks(base_url, key, job_id, tmp_path, kind):
    with breaking(base_url, [1_000_000, 0]) as proxy, mixkd_client.Client(proxy.url, key) as client:
        path = client.jobs.download_archive(job_id, tmp_path / f"student.{kind}")
        assert not proxy.limits  # every connection that was to break did
    found = unpacked(kind, path.read_bytes())
    assert found == {f"{job_id}-student/{name}": content for name, content in CONTENTS.items()}
    assert list(tmp_path.glob(".student*")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_keeps_nothing_of_a_damaged_student(*, base_url, key, job_id, stored, tmp_path, kind):
    (stored / "onnx/model.onnx").write_bytes(bytes(512))
    with (
        mixkd_client.Client(base_url, key, retries=1) as client,
        pytest.raises(mixkd_client.ConnectionFailed, match=rf"student\.{kind}"),
    ):
        client.jobs.download_archive(job_id, tmp_path / f"student.{kind}")
    assert [path for path in tmp_path.iterdir() if "student" in path.name] == []


def test_the_command_fetches_it(*, base_url, key, job_id, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIXKD_URL", base_url)
    monkeypatch.setenv("MIXKD_API_KEY", key)
    path = tmp_path / "student.zip"
    main(["jobs", "download", job_id, "--archive", str(path)])
    assert capsys.readouterr().out == f"{path}\n"
    assert len(unpacked("zip", path.read_bytes())) == len(CONTENTS)


# --- large students ------------------------------------------------------------------------------------


@dataclass
class Zeros:
    """A storage whose files are all zeros; it counts the bytes that it was asked for."""

    sizes: dict[str, int]
    given: int = 0

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        for _ in range(0, self.sizes[key], CHUNK):
            self.given += CHUNK
            yield bytes(CHUNK)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_student(kind):
    """Nothing is read long before it is sent, and nothing is kept."""
    storage, sent = Zeros({"a": 100 * CHUNK, "b": 28 * CHUNK}), 0
    inside = [Member(f"top/{key}", key, promised(bytes(size))) for key, size in storage.sizes.items()]
    tracemalloc.start()
    try:
        for part in archive.parts(kind, inside, lambda member: archive.checked(storage, member)):
            sent += len(part)
            assert storage.given <= sent + 2 * CHUNK, "read ahead of what was sent"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert storage.given == 128 * CHUNK
    assert peak < 5 * CHUNK


GIB = 1 << 30


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("zip", [2 * GIB - 1, 1]),  # the largest without zip64 fields
        ("zip", [2 * GIB, 1, 5]),  # a large file, and two that begin beyond
        ("zip", [GIB + 7, GIB + 7, 3]),  # small ones that are large together
        ("zip", [4 * GIB + 3, 2]),
        ("zip", [0] * 65_535),
        ("zip", [0] * 65_536),
        ("tar", [8 * GIB - 1, 1]),  # the largest in octal
        ("tar", [8 * GIB, 1]),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} of {max(value)}",
)
def test_the_length_is_known_and_right_past_every_limit(kind, sizes, monkeypatch, tmp_path):
    """With the real code over a fake storage, into a file that is all holes."""
    monkeypatch.setattr(zipfile, "crc32", lambda data, crc=0: 0)  # of gigabytes of zeros; its turn was above
    inside = [Member(f"top/{number:06}", "", StoredFile(size, "")) for number, size in enumerate(sizes)]
    hole, path = bytes(64 * CHUNK), tmp_path / "archive"

    def read(member: Member) -> Iterator[bytes]:
        yield from [hole] * (member.file.size // len(hole))
        yield bytes(member.file.size % len(hole))

    with path.open("wb") as out:
        for part in archive.parts(kind, inside, read):
            if part is hole:
                out.seek(len(part), io.SEEK_CUR)
            else:
                out.write(part)
        assert out.tell() == archive.size(kind, inside)
    if kind == "zip":
        with zipfile.ZipFile(path) as packed:
            listed = [(entry.filename, entry.file_size) for entry in packed.infolist()]
            for entry in packed.infolist()[-3:]:  # a local header lies where the directory says
                packed.open(entry).close()
    else:
        with tarfile.open(path, "r:") as packed:
            listed = [(entry.name, entry.size) for entry in packed]
    assert listed == [(member.name, member.file.size) for member in inside]
