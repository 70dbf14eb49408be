"""HTML forms, turned into what the API's own models check.

A field is called what the API calls it, dots and all: `recipe.student.layers`. So a refusal names the very
field it belongs beside, and there is no second list of rules. A name that ends in `[]` is a list.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from core.errors import InvalidInput
from mixkd.contract.problems import Problem

Form = Mapping[str, Any]
"""What was sent: text, and lists of text."""


async def read_form(request: Request) -> Form:
    """The text fields of a form; what was left empty is left out."""
    found: dict[str, Any] = {}
    async with request.form(max_files=0, max_fields=100) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) or not value.strip():
                continue
            if name.endswith("[]"):
                found.setdefault(name, []).append(value)
            else:
                found[name] = value.strip()
    return found


def nested(form: Form, *, as_json: str) -> dict[str, Any]:
    """The request that a form stands for: `{"a.b": "1"}` -> `{"a": {"b": 1}}`.

    What is within another field is a number or a list if it reads as one, for a recipe tells 3 from "3".

    Args:
        as_json: the field that holds, as a JSON object, what has no field of its own.

    Raises:
        InvalidInput: that field is not a JSON object, or says what another field says too.
    """
    request: dict[str, Any] = {}
    if as_json in form:
        request[as_json] = _object(as_json, form[as_json])
    for name, value in form.items():
        if name == as_json:
            continue
        *parents, last = name.removesuffix("[]").split(".")
        place = request
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise _twice(as_json, name)
        if last in place:
            raise _twice(as_json, name)
        place[last] = _number(value) if parents else value
    return request


def beside(problems: Iterable[Problem], fields: Iterable[str]) -> dict[str, list[Problem]]:
    """Each problem under the field that it is shown beside; under `""` what belongs to none."""
    known = sorted(fields, key=len, reverse=True)  # `recipe.student.layers` before `recipe`
    placed: dict[str, list[Problem]] = {}
    for problem in problems:
        name = f"{problem.field}."
        field = next((field for field in known if name.startswith(f"{field.removesuffix('[]')}.")), "")
        placed.setdefault(field, []).append(problem)
    return placed


def _number(value: str | list[str]) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput.of(name, f"it is not JSON: {error}", remedy='write {"…": …}, or nothing') from None
    if not isinstance(value, dict):
        raise InvalidInput.of(name, "a JSON object is needed here", remedy='write {"…": …}, or nothing')
    return value


def _twice(as_json: str, name: str) -> InvalidInput:
    return InvalidInput.of(as_json, f"{name} is given here and in its own field", remedy="give it once")
