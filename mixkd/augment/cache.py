"""What was made once is kept, under a hash of everything that decides it.

An entry is one file of JSON lines: a manifest with the checksum of what follows, then a value a line. It
appears whole or not at all, so two processes may write the same one; what is damaged is made again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mixkd.atomic import write_text

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
        folder.mkdir(parents=True, exist_ok=True)
        body = "".join(f"{_text(value)}\n" for value in found)
        manifest = {"made_from": made_from, "sha256": hashlib.sha256(body.encode()).hexdigest()}
        write_text(path, f"{_text(manifest)}\n{body}")
    return found


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
    except (FileNotFoundError, ValueError):
        return None
    return [json.loads(line) for line in body.splitlines()]
