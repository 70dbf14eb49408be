"""A student, as a folder or as one archive: streamed, checked, and either all there or not at all."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import httpx

from mixkd_client._errors import ApiError, ConnectionFailed, CorruptDownload
from mixkd_client._transport import worth_retrying
from mixkd_client._types import StudentFile

Open = Callable[[str, Mapping[str, str]], AbstractContextManager[httpx.Response]]
ArchiveFormat: TypeAlias = Literal["tar", "zip"]


def download(
    files: list[StudentFile], target: Path, open_file: Open, *, retries: int, pause: Callable[[int], None]
) -> None:
    """Fetch every file into a folder beside `target`, then give it that name.

    An interrupted download leaves `.NAME.part` beside the target; the next one goes on from there.

    Raises:
        FileExistsError: `target` exists and holds something else.
        CorruptDownload: a file's bytes are not the promised ones, even when fetched afresh.
        ConnectionFailed: the connection kept breaking.
        ApiError: the service refused.
    """
    if all(_is_complete(_inside(target, file), file) for file in files):
        return
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty")
    part = target.parent / f".{target.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    for file in files:
        _fetch(file, _inside(part, file), open_file, retries=retries, pause=pause)
    for stray in set(part.rglob("*")) - {_inside(part, file) for file in files}:
        if stray.is_file():
            stray.unlink()  # left by an interrupted download of something else
    part.replace(target)


def _fetch(
    file: StudentFile, path: Path, open_file: Open, *, retries: int, pause: Callable[[int], None]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    resumed = path.exists()
    attempt = 0
    while not _is_complete(path, file):
        if path.exists() and path.stat().st_size >= file.size:
            path.unlink()
            if not resumed:
                raise CorruptDownload(f"{file.path} is not the file that the service promised (sha256)")
            resumed = False  # what an earlier download left was bad: once more from its first byte
        try:
            _append(path, lambda headers: open_file(file.path, headers))
        except (httpx.TransportError, ApiError) as error:
            if not worth_retrying(error):
                raise
            if attempt == retries:
                raise ConnectionFailed(f"{file.path} could not be fetched: {error!r}") from error
            pause(attempt)
            attempt += 1


def _append(
    path: Path, open_at: Callable[[Mapping[str, str]], AbstractContextManager[httpx.Response]]
) -> None:
    """Fetch what is missing, starting after the bytes that are here."""
    have = path.stat().st_size if path.exists() else 0
    with open_at({"Range": f"bytes={have}-"} if have else {}) as response:
        continued = response.status_code == httpx.codes.PARTIAL_CONTENT
        with path.open("ab" if continued else "wb") as out:
            for chunk in response.iter_raw():  # as it comes: a chunk that is still being filled would be lost
                out.write(chunk)


def _is_complete(path: Path, file: StudentFile) -> bool:
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _inside(folder: Path, file: StudentFile) -> Path:
    """Where a file goes. A service that names a path outside the folder is not to be followed there."""
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise CorruptDownload(f"the service names a file outside the student's folder: {file.path!r}")
    return folder / relative


def archive_format(path: Path) -> ArchiveFormat:
    """What a file's suffix asks for.

    Raises:
        ValueError: it is neither `.tar` nor `.zip`.
    """
    match path.suffix:
        case ".tar":
            return "tar"
        case ".zip":
            return "zip"
    raise ValueError(f"{path} ends neither in .tar nor in .zip")


def download_archive(
    target: Path,
    open_file: Callable[[Mapping[str, str]], AbstractContextManager[httpx.Response]],
    *,
    retries: int,
    pause: Callable[[int], None],
) -> None:
    """Fetch one file to `.NAME.part` beside `target`, then give it that name.

    The service checks the SHA-256 of what it packs and breaks off where one is wrong, so that an answer of
    the promised length is a good one. One that is cut short is asked for again from its first byte.

    Raises:
        FileExistsError: `target` exists.
        ConnectionFailed: the answer kept being cut short.
        ApiError: the service refused.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists")
    part = target.parent / f".{target.name}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        for attempt in range(retries + 1):
            try:
                _fetch_whole(part, open_file)
                break
            except (httpx.TransportError, ApiError) as error:
                if not worth_retrying(error):
                    raise
                if attempt == retries:
                    raise ConnectionFailed(f"{target.name} could not be fetched: {error!r}") from error
                pause(attempt)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _fetch_whole(
    path: Path, open_file: Callable[[Mapping[str, str]], AbstractContextManager[httpx.Response]]
) -> None:
    # A proxy must not compress it on the way: the length would not be that of the file.
    with open_file({"Accept-Encoding": "identity"}) as response, path.open("wb") as out:
        for chunk in response.iter_raw():
            out.write(chunk)
        promised = response.headers.get("content-length")
        if promised is not None and out.tell() != int(promised):
            raise httpx.RemoteProtocolError(f"{out.tell()} of {promised} bytes arrived")
