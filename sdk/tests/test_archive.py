"""A student as one file: there whole, or not there."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import mixkd_client
from mixkd_client._cli import parser
from mixkd_client._download import ArchiveFormat
from mixkd_client._jobs import Jobs
from mixkd_client._transport import Transport

CONTENT = b"archive" * 10_000


class Service(httpx.BaseTransport):
    """Answers with each of these in turn; keeps the requests."""

    def __init__(self, *answers: Callable[[], httpx.Response]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answers.pop(0)()

    def jobs(self, retries: int = 2) -> Jobs:
        http = httpx.Client(base_url="http://service", transport=self)
        return Jobs(Transport(http, retries=retries, first_delay=0))


class Pieces(httpx.SyncByteStream):
    """A body as it arrives; at its end the connection may break."""

    def __init__(self, content: bytes, *, breaks: bool = False) -> None:
        self.content, self.breaks = content, breaks

    def __iter__(self) -> Iterator[bytes]:
        yield from (self.content[start : start + 9999] for start in range(0, len(self.content), 9999))
        if self.breaks:
            raise httpx.ReadError("the connection is gone")


LENGTH = {"Content-Length": str(len(CONTENT))}


def whole() -> httpx.Response:
    return httpx.Response(200, headers=LENGTH, stream=Pieces(CONTENT))


def unsized() -> httpx.Response:
    """As from a proxy that passes it on in chunks."""
    return httpx.Response(200, stream=Pieces(CONTENT))


def short() -> httpx.Response:
    """As over a connection whose end nobody checks."""
    return httpx.Response(200, headers=LENGTH, stream=Pieces(CONTENT[:-1]))


def broken() -> httpx.Response:
    return httpx.Response(200, headers=LENGTH, stream=Pieces(CONTENT[:100], breaks=True))


def busy() -> httpx.Response:
    return httpx.Response(503, stream=Pieces(b""))


@pytest.mark.parametrize(
    ("name", "given", "asked"),
    [("s.tar", None, "tar"), ("s.zip", None, "zip"), ("s.tar", "zip", "zip"), ("student", "tar", "tar")],
)
def test_the_suffix_says_which_unless_the_caller_does(
    tmp_path: Path, name: str, given: ArchiveFormat | None, asked: str
) -> None:
    service = Service(whole)
    path = service.jobs().download_archive("job_1", tmp_path / "new" / name, format=given)
    assert path.read_bytes() == CONTENT
    assert [request.url.path for request in service.requests] == [f"/v1/jobs/job_1/student.{asked}"]
    assert service.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("name", ["student", "student.tar.gz", "student.TAR"])
def test_a_suffix_that_says_nothing_is_refused_before_anything_is_asked(tmp_path: Path, name: str) -> None:
    service = Service()
    with pytest.raises(ValueError, match=r"neither in \.tar nor in \.zip"):
        service.jobs().download_archive("job_1", tmp_path / name)
    assert service.requests == []


def test_a_length_that_is_not_told_is_not_missed(tmp_path: Path) -> None:
    assert Service(unsized).jobs().download_archive("job_1", tmp_path / "s.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("trouble", [short, broken, busy])
def test_what_was_cut_short_is_asked_for_again(tmp_path: Path, trouble: Callable[[], httpx.Response]) -> None:
    service = Service(trouble, trouble, whole)
    assert service.jobs().download_archive("job_1", tmp_path / "s.tar").read_bytes() == CONTENT
    assert not any("range" in request.headers for request in service.requests)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


@pytest.mark.parametrize("trouble", [short, broken, busy])
def test_what_stays_short_leaves_nothing(tmp_path: Path, trouble: Callable[[], httpx.Response]) -> None:
    service = Service(trouble, trouble, trouble)
    with pytest.raises(mixkd_client.ConnectionFailed, match=r"s\.tar could not be fetched"):
        service.jobs().download_archive("job_1", tmp_path / "s.tar")
    assert service.answers == []
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_raised_at_once(tmp_path: Path) -> None:
    service = Service(lambda: httpx.Response(404, stream=Pieces(b"")))
    with pytest.raises(mixkd_client.NotFound):
        service.jobs().download_archive("job_1", tmp_path / "s.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_text("precious")
    service = Service(whole)
    with pytest.raises(FileExistsError, match="exists"):
        service.jobs().download_archive("job_1", tmp_path / "s.tar")
    assert (tmp_path / "s.tar").read_text() == "precious"
    assert service.requests == []


@pytest.mark.parametrize(
    "arguments", [[], ["folder", "--archive", "s.tar"], ["--archive", "s.rar"], ["--archive"]]
)
def test_the_command_wants_a_folder_or_an_archive(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["jobs", "download", "job_1", *arguments])
    assert ended.value.code == 2
    assert "--archive" in capsys.readouterr().err


def test_the_command_takes_either() -> None:
    folder = parser().parse_args(["jobs", "download", "job_1", "student"])
    assert (folder.directory, folder.archive) == (Path("student"), None)
    one = parser().parse_args(["jobs", "download", "job_1", "--archive", "s.zip"])
    assert (one.directory, one.archive) == (None, Path("s.zip"))
