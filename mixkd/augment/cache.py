"""What was made once is kept, under a hash of everything that decides it.

An entry is one file of JSON lines: a manifest with the checksum of what follows, then a value a line. It
appears whole or not at all, so two processes may write the same one; what is damaged is made again, and what
cannot be kept is made again next time.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

from mixkd.atomic import write_text
from mixkd.contract.problems import Problem, RefusedError

Value = TypeVar("Value")


def remembered(folder: Path, made_from: Mapping[str, object], make: Callable[[], list[Value]]) -> list[Value]:
    """The values that `make` returns; it is called only if they are not in the cache.

    Args:
        made_from: all that decides the values, in what JSON can hold, like the values themselves: no tuples.
    """
    path = folder / f"{digest(made_from)}.jsonl"
    found: list[Value] | None = _read(path, made_from)
    if found is None:
        found = make()
        body = "".join(f"{_text(value)}\n" for value in found)
        manifest = {"made_from": made_from, "sha256": hashlib.sha256(body.encode()).hexdigest()}
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, f"{_text(manifest)}\n{body}")
    return found


def refuse_unwritable(folder: Path) -> None:
    """Find out before hours went into a teacher that nothing could be kept.

    Raises:
        RefusedError: no file can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RefusedError(
            Problem("MIXKD_CACHE", f"nothing can be kept in the cache: {error.strerror}", folder.name,
                    "set this variable to a folder that you may write to")
        ) from None  # fmt: skip


def digest(value: object) -> str:
    """SHA-256 of a value that JSON can hold; the order of an object's keys changes nothing."""
    return hashlib.sha256(_text(value).encode()).hexdigest()


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _read(path: Path, made_from: Mapping[str, object]) -> list[Any] | None:
    """The values of an entry; None if there is none, or not a whole one."""
    try:
        first, _, body = path.read_bytes().partition(b"\n")
        manifest = {"made_from": made_from, "sha256": hashlib.sha256(body).hexdigest()}
        if json.loads(first) != manifest:
            return None
    except (OSError, ValueError, RecursionError):  # a folder of that name; brackets 100,000 deep
        return None
    return [json.loads(line) for line in body.splitlines()]
