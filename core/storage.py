"""Where files lie: a local folder, S3, GCS or Azure, behind one interface (obstore).

Keys are relative paths such as `models/mdl_…/config.json`. Nothing is overwritten, because no two writers
share a prefix: each attempt and each import has its own, and a row in the database says which one counts.
(Create-only puts would enforce it, but obstore sends those in one piece, out of memory.)
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

if TYPE_CHECKING:
    from obstore import GetOptions  # exists for type checkers only

CHUNK = 1 << 20
MARK = ".mixkd"  # in a storage folder from the beginning, which is thus never empty
DELETED_AT_ONCE = 1000


@dataclass(frozen=True)
class StoredFile:
    """What a manifest says of a file: its size in bytes and its SHA-256 in hex."""

    size: int
    sha256: str


class CorruptFileError(Exception):
    """A file's bytes are not those that its manifest promises."""


def digest(path: Path) -> StoredFile:
    """Size and SHA-256 of a local file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return StoredFile(file.tell(), sha256)


def set_up(url: str) -> None:
    """Make a new service's storage folder; a bucket is there already.

    Nobody else makes one: where a volume is not mounted, its files would seem to be gone for good, and new
    ones would disappear beneath it later.
    """
    if (root := _folder(url)) is not None:
        root.mkdir(parents=True, exist_ok=True)
        (root / MARK).touch()


def _folder(url: str) -> Path | None:
    return Path(url.removeprefix("file://")) if url.startswith("file://") else None


class Storage:
    """One bucket or folder.

    Args:
        url: `file:///folder`, `s3://bucket/prefix`, `gs://…` or `az://…`; credentials come from the
            environment as each provider defines it.

    Raises:
        OSError: the folder is missing or empty, and probably not mounted; also by `read`, `fetch` and
            `put_file`, for it may come and go.
    """

    def __init__(self, url: str) -> None:
        self._root = _folder(url)
        self._require_mounted()
        self._store: ObjectStore = (
            from_url(url) if self._root is None else LocalStore(self._root, automatic_cleanup=True)
        )

    def ping(self) -> None:
        """See whether the bucket or folder answers.

        Raises:
            OSError, obstore.exceptions.BaseError: it does not.
        """
        if self._root is not None and not os.access(self._root, os.R_OK | os.W_OK | os.X_OK):
            raise OSError(f"the storage folder is missing or closed to us: {self._root}")
        self._require_mounted()
        next(iter(obstore.list(self._store, chunk_size=1)), None)

    def put_file(self, key: str, path: Path) -> StoredFile:
        """Store a local file; large ones go up in parts."""
        self._require_mounted()
        stored = digest(path)
        obstore.put(self._store, self._checked(key), path)
        return stored

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes `start` to `end` (exclusive; None: all) of a file, in chunks.

        Raises:
            FileNotFoundError: there is no such key; raised at the call, before the first chunk.
        """
        options: GetOptions | None = None  # an empty object has no byte to start a range at
        if end is not None:
            options = {"range": (start, end)}
        elif start:
            options = {"range": {"offset": start}}
        try:
            result = obstore.get(self._store, self._checked(key), options=options)
        except FileNotFoundError:
            self._require_mounted()  # else nobody knows what is gone
            raise
        return (bytes(chunk) for chunk in result.stream(min_chunk_size=CHUNK))

    def fetch(
        self, key: str, path: Path, promised: StoredFile, each_chunk: Callable[[], None] | None = None
    ) -> None:
        """Copy a file here and check it.

        Args:
            each_chunk: called before each chunk is written; what it raises ends the copy.

        Raises:
            CorruptFileError: size or SHA-256 differ from what was promised.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in self.read(key):
                if each_chunk is not None:
                    each_chunk()
                file.write(chunk)
        if digest(path) != promised:
            path.unlink()
            raise CorruptFileError(f"{key} is not the file that its manifest promises")

    def keys(self, prefix: str) -> Iterator[str]:
        """Every key under a prefix."""
        for batch in obstore.list(self._store, self._checked(prefix)):
            for meta in batch:
                yield meta["path"]

    def delete_prefix(self, prefix: str) -> int:
        """Remove every file under a prefix; how many there were."""
        keys = list(self.keys(prefix))
        self.delete(keys)
        return len(keys)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove files, if they are there."""
        for start in range(0, len(keys), DELETED_AT_ONCE):
            some = [self._checked(key) for key in keys[start : start + DELETED_AT_ONCE]]
            with suppress(FileNotFoundError):
                obstore.delete(self._store, some)

    def _require_mounted(self) -> None:
        if self._root is not None and next(self._root.glob("*"), None) is None:
            raise OSError(
                f"the storage folder {self._root} is missing or empty: is it mounted? "
                f"If it is to be a new one: mkdir -p {self._root} && touch {self._root / MARK}"
            )

    def _checked(self, key: str) -> str:
        """The key, once it is known to stay inside: obstore's LocalStore would follow a symlink out."""
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts:
            raise ValueError(f"not a storage key: {key!r}")
        if self._root is not None:
            inside = (self._root / key).resolve()
            if not inside.is_relative_to(self._root.resolve()):
                raise ValueError(f"storage key leaves the storage folder: {key!r}")
        return key
