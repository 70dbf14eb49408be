"""Shapes that every resource shares."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from core import paging
from core.errors import NotFound

T = TypeVar("T")
Row = TypeVar("Row")

_ID = re.compile(r"[a-z]+_[0-9a-z]{26}", re.ASCII)


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError(
            "one_line", "it has characters that cannot be shown", {"remedy": "use one line of plain text"}
        )
    return value


def _looks_like_an_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise PydanticCustomError(
            "id", "it is not an id", {"remedy": "give the `id` that the service answered with"}
        )
    return value


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_one_line),
]
"""What a user calls a thing: one line that can be shown."""

Reference = Annotated[str, AfterValidator(_looks_like_an_id)]
"""The id of another thing, in a request body."""


def _can_exist(value: str) -> str:
    # Not a ValueError: pydantic passes it on as it is, so an odd id is a 404 like any unknown one.
    if not _ID.fullmatch(value):
        raise NotFound("there is nothing with that id")
    return value


Id = Annotated[str, AfterValidator(_can_exist)]
"""An id in a path."""


class Request(BaseModel):
    """A request body or query: unknown fields are refused, for a typo must not be ignored."""

    model_config = ConfigDict(extra="forbid")


class PageQuery(Request):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, max_length=100, description="`next_cursor` of the page before")


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = Field(description="ask again with `cursor=` this; null: the last page")

    @classmethod
    def of(cls, page: paging.Page[Row], view: Callable[[Row], T]) -> "Page[T]":
        """The page with every row as the wire shows it."""
        return cls(items=[view(row) for row in page.items], next_cursor=page.next_cursor)


class FileEntry(BaseModel):
    """One stored file, as its manifest names it."""

    path: str
    size: int = Field(description="bytes")
    sha256: str = Field(description="in hex")

    @classmethod
    def manifest(cls, files: dict[str, Any]) -> "list[FileEntry]":
        """A stored manifest (path -> size and sha256) as a list, by path."""
        return [cls(path=path, **files[path]) for path in sorted(files)]


class ProblemEntry(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="dotted path, such as recipe.student.layers")
    problem: str
    value: Any = Field(None, description="what was given, shortened; null if it was missing or is secret")
    remedy: str | None = None


def problem_type(code: str) -> str:
    """The URN that names a kind of problem; there is no page to fetch at it."""
    return f"urn:mixkd:problem:{code}"


class ProblemDocument(BaseModel):
    """Every error, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": problem_type("invalid_input"),
                    "title": "The request cannot be carried out as it stands",
                    "status": 422,
                    "detail": "recipe.student.layers: the teacher has 6 layers",
                    "code": "invalid_input",
                    "request_id": "01k3v0q2c7y6j5h4g3f2d1s0aq",
                    "errors": [
                        {
                            "field": "recipe.student.layers",
                            "problem": "the teacher has 6 layers",
                            "value": 9,
                            "remedy": "ask for 1 to 6 layers",
                        }
                    ],
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="stable and machine-readable")
    request_id: str = Field(description="names this request in the server's log")
    errors: list[ProblemEntry] = Field(default_factory=list)
