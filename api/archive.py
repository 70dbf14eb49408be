"""A student as one archive over HTTP, streamed out of storage: a tar or a zip.

The bytes follow from the folder's name and the manifest: files in the order of their paths; one time, mode
and owner for all; nothing compressed, for safetensors do not shrink. So the length and a strong entity tag
are known before a file is opened, and every server sends the same.

What was promised cannot be taken back once the first byte has left. A file that is not what its manifest says
therefore ends the response before its `Content-Length`: such an archive is cut short, never whole and wrong.

In a zip the CRC-32 of a file follows its data (a data descriptor), for to know it earlier the file would be
read twice. What reads the directory at the end does not mind; what unpacks a zip from a pipe may (Java's
`ZipInputStream` refuses). The tar is for pipes.
"""

import hashlib
import json
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from zipfile import ZIP64_LIMIT, ZIP_FILECOUNT_LIMIT, ZipFile, ZipInfo

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from api import files
from core.storage import CorruptFileError, Storage, StoredFile

Kind = Literal["tar", "zip"]

VERSION = 1  # in the entity tag: raise it when the same files become other bytes
_TIME = datetime(1980, 1, 1, tzinfo=UTC)  # the earliest that a zip can name
_MODE = 0o644


@dataclass(frozen=True)
class Member:
    """One file: its name in the archive, its key in storage, and what it must be."""

    name: str
    key: str
    file: StoredFile


Read = Callable[[Member], Iterator[bytes]]


def download(
    request: Request,
    storage: Storage,
    prefix: str,
    manifest: Mapping[str, StoredFile],
    *,
    folder: str,
    kind: Kind,
) -> Response:
    """Answer a GET or HEAD for all files of a manifest, under one top folder.

    Args:
        prefix: where they lie in storage; the manifest's paths follow it.
        folder: the top folder's name, and the file's without its suffix.

    Raises:
        FileNotFoundError: storage has lost a file; found here, while the answer can still be an error.
        obstore.exceptions.BaseError: a file has become shorter than promised, or storage does not answer.
    """
    inside = members(prefix, manifest, folder)
    tag = etag(kind, inside)
    headers = files.attachment(f"{folder}.{kind}", tag) | {"Accept-Ranges": "none"}
    if files.matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    headers["Content-Length"] = str(size(kind, inside))
    for member in inside:  # also of a HEAD: a manifest whose files are gone must not look well
        last = max(member.file.size - 1, 0)
        storage.read(member.key, last, member.file.size or None)
    chunks: Iterator[bytes] = iter(())
    if request.method != "HEAD":
        chunks = parts(kind, inside, lambda member: checked(storage, member))
    return StreamingResponse(chunks, 200, headers, media_type=_KINDS[kind].media_type)


def members(prefix: str, manifest: Mapping[str, StoredFile], folder: str) -> list[Member]:
    """The files in the order in which they are packed."""
    return [Member(f"{folder}/{path}", f"{prefix}/{path}", manifest[path]) for path in sorted(manifest)]


def etag(kind: Kind, inside: Sequence[Member]) -> str:
    """Strong: a digest of all that the bytes follow from."""
    listed = [[member.name, member.file.size, member.file.sha256] for member in inside]
    return f'"{hashlib.sha256(json.dumps([kind, VERSION, listed]).encode()).hexdigest()}"'


def size(kind: Kind, inside: Sequence[Member]) -> int:
    """The archive's length in bytes, without reading a file."""
    return _KINDS[kind].size(inside)


def parts(kind: Kind, inside: Sequence[Member], read: Read) -> Iterator[bytes]:
    """The archive, piece by piece; never more than two pieces of one file are in memory.

    What `read` raises ends it, and then it is shorter than `size` says.
    """
    return _KINDS[kind].parts(inside, read)


def checked(storage: Storage, member: Member) -> Iterator[bytes]:
    """A file's bytes, the last of which come only once all are known to be right: some programs unpack an
    archive without a word that ends after a whole file.

    Raises:
        FileNotFoundError: it is gone.
        CorruptFileError: size or SHA-256 differ from what was promised.
    """
    length, sha256, held = 0, hashlib.sha256(), b""
    for chunk in storage.read(member.key, 0, member.file.size or None):
        yield held
        length += len(chunk)
        sha256.update(chunk)
        held = chunk
    if StoredFile(length, sha256.hexdigest()) != member.file:
        raise CorruptFileError(f"{member.key} is not the file that its manifest promises")
    yield held


# --- tar: POSIX.1-2001 (pax), where a long or odd name or 8 GiB need it -----------------------------------


def _tar_header(member: Member) -> bytes:
    entry = tarfile.TarInfo(member.name)
    entry.size = member.file.size
    entry.mode = _MODE
    entry.mtime = int(_TIME.timestamp())
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _tar_padding(member: Member) -> int:
    return -member.file.size % tarfile.BLOCKSIZE


_TAR_END = bytes(2 * tarfile.BLOCKSIZE)


def _tar_size(inside: Sequence[Member]) -> int:
    each = (len(_tar_header(member)) + member.file.size + _tar_padding(member) for member in inside)
    return sum(each) + len(_TAR_END)


def _tar(inside: Sequence[Member], read: Read) -> Iterator[bytes]:
    for member in inside:
        yield _tar_header(member)
        yield from read(member)
        yield bytes(_tar_padding(member))
    yield _TAR_END


# --- zip: stored, by `zipfile`, whose output cannot be sought in ------------------------------------------


class _Outbox:
    """What a ZipFile has written and nobody has taken yet. Without `tell`, so that it never looks back."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(data)
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data

    def flush(self) -> None:
        """Nothing waits elsewhere; ZipFile asks for this."""

    def close(self) -> None:
        """Nothing is held open; ZipFile asks for this."""


def _zip_size(inside: Sequence[Member]) -> int:
    """By the rules that `zipfile` follows: above 2 GiB a number needs a zip64 field."""
    data = directory = 0
    for member in inside:
        name = len(member.name.encode())
        large, far = member.file.size > ZIP64_LIMIT, data > ZIP64_LIMIT  # `far`: it begins beyond
        zip64 = 8 * (2 * large + far)
        directory += 46 + name + (4 + zip64 if zip64 else 0)
        data += 30 + name + (20 if large else 0) + member.file.size + (24 if large else 16)
    end = 22
    if len(inside) > ZIP_FILECOUNT_LIMIT or max(data, directory) > ZIP64_LIMIT:
        end += 56 + 20
    return data + directory + end


def _zip(inside: Sequence[Member], read: Read) -> Iterator[bytes]:
    outbox = _Outbox()
    with ZipFile(outbox, "w") as archive:
        for member in inside:
            entry = ZipInfo(member.name, _TIME.timetuple()[:6])
            entry.create_system = 3  # Unix: it says whose modes these are
            entry.external_attr = (stat.S_IFREG | _MODE) << 16
            with archive.open(entry, "w", force_zip64=member.file.size > ZIP64_LIMIT) as out:
                for chunk in read(member):
                    out.write(chunk)
                    yield outbox.take()
    yield outbox.take()


@dataclass(frozen=True)
class _Packing:
    media_type: str
    size: Callable[[Sequence[Member]], int]
    parts: Callable[[Sequence[Member], Read], Iterator[bytes]]


_KINDS: Mapping[Kind, _Packing] = {
    "tar": _Packing("application/x-tar", _tar_size, _tar),
    "zip": _Packing("application/zip", _zip_size, _zip),
}
