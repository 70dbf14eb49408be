"""Reading a model folder's JSON files, and the refusal of a file."""

import json
from collections.abc import Mapping
from pathlib import Path

from mixkd.contract.problems import Problem, RefusedError

MAX_JSON_BYTES = 16 << 20


def refuse(field: str, problem: str, value: object = None, remedy: str | None = None) -> RefusedError:
    """The error to raise for a file. `remedy`: None for a damaged one, for which there is but one."""
    return RefusedError(Problem(field, problem, value, remedy or "save or download the model once more"))


def read_json(folder: Path, files: Mapping[str, int], name: str) -> dict[str, object]:
    """The object in a JSON file.

    Args:
        files: the folder's files with their sizes in bytes.

    Raises:
        RefusedError: it is too large, or no JSON object.
    """
    if files[name] > MAX_JSON_BYTES:
        raise refuse(name, f"it is larger than {MAX_JSON_BYTES} bytes", files[name])
    with (folder / name).open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    return json_object(data, name)


def json_object(data: bytes, name: str) -> dict[str, object]:
    """The object that `data` spells.

    Raises:
        RefusedError: it is no JSON object.
    """
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise refuse(name, "it is not valid JSON", None, "save the model again") from None
    if not isinstance(value, dict):
        raise refuse(name, "it is not a JSON object", None, "save the model again")
    return value
