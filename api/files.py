"""A stored file over HTTP (RFC 9110): one range, strong validators, HEAD.

The entity tag is the file's SHA-256, so it is strong and the same on every server.
"""

import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import quote

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from core.storage import Storage, StoredFile

_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII | re.IGNORECASE)


def download(request: Request, storage: Storage, key: str, file: StoredFile) -> Response:
    """Answer a GET or HEAD for a file that a manifest names.

    Raises:
        HTTPException: 416, the range starts past the end.
    """
    etag = f'"{file.sha256}"'
    headers = attachment(PurePosixPath(key).name, etag) | {
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(file.sha256)).decode()}:",  # RFC 9530
    }
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)

    start, end = 0, file.size
    status = 200
    if_range = request.headers.get("if-range")
    if if_range is None or if_range.strip() == etag:
        wanted = _single_range(request.headers.get("range"), file.size)
        if wanted is not None:
            status, (start, end) = 206, wanted
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - start)

    # A HEAD opens the file too: a manifest whose file is gone must not look well.
    chunks: Iterator[bytes] = storage.read(key, start, end) if file.size else iter(())
    if request.method == "HEAD":
        chunks = iter(())
    return StreamingResponse(chunks, status, headers, media_type="application/octet-stream")


def _single_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes [start, end) that were asked for; None: the whole file.

    A header that is malformed or asks for several ranges is ignored, as RFC 9110 section 14.2 allows.
    """
    match = _RANGE.fullmatch(header) if header is not None else None
    if match is None:
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
    elif last:
        start, end = max(size - int(last), 0), size
    else:
        return None
    if start >= end:
        raise HTTPException(416, f"the file has {size} bytes", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def matches(header: str | None, etag: str) -> bool:
    """If-None-Match: a list of tags, compared weakly, or `*`."""
    if header is None:
        return False
    return any(tag.strip().removeprefix("W/") in {etag, "*"} for tag in header.split(","))


def attachment(name: str, etag: str) -> dict[str, str]:
    """The headers of whatever is to be saved, under its own name, whatever characters that holds."""
    plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
    return {
        "ETag": etag,
        "Cache-Control": "private, no-cache",  # the content never changes, but the key may be revoked
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
