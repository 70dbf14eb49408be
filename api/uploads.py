"""Receives `multipart/form-data` as it streams: fields into memory, files into a folder of the request.

`api.middleware` has looked at the key before the first byte is read here, and counts the bytes. Whatever the
outcome, the folder is gone when the request ends.
"""

import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from fastapi import Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.errors import InvalidInput
from core.imports import scratch

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks  # exists for type checkers only

MAX_FIELD_BYTES = 64 << 10
MAX_FILES = 200
DRAIN_BYTES = 16 << 20

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", re.ASCII)
_REMEDY = "send multipart/form-data as docs/reference/http-api.md describes it"

Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True)
class Received:
    """What arrived: fields by name, and files by the name of their part, each `folder/PART/FILE`."""

    folder: Path
    fields: Mapping[str, str]
    files: Mapping[str, list[Path]]

    def form(self, model: type[Form]) -> Form:
        """The fields, validated.

        Raises:
            RequestValidationError: as for a JSON body.
        """
        try:
            return model.model_validate(self.fields)
        except ValidationError as error:
            raise RequestValidationError([_in_body(found) for found in error.errors()]) from error


def _in_body(found: Mapping[str, Any]) -> dict[str, Any]:
    """A validation error as FastAPI would have made it of a body."""
    placed = {**found, "loc": ("body", *found["loc"])}
    if found["type"] == "json_invalid":  # of a field that holds JSON: the body itself is none
        return placed | {"type": "json_field", "ctx": {"remedy": "send a JSON object in it"}}
    return placed


@asynccontextmanager
async def received(
    request: Request, *, fields: Collection[str], files: Collection[str], several: bool = False
) -> AsyncIterator[Received]:
    """The parts of a request, for as long as the body of this context runs.

    Args:
        request: its settings say where the folder is made.
        fields: names of the text parts.
        files: names of the file parts.
        several: a file part may come more than once; then its files keep their names.

    Raises:
        InvalidInput: not multipart/form-data, a part of another name, a part sent twice, a bad file name.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput.of("Content-Type", "it is not multipart/form-data with a boundary", remedy=_REMEDY)
    async with contextmanager_in_threadpool(scratch(request.app.state.settings)) as folder:
        parts = _Parts(folder, frozenset(fields), frozenset(files), several)
        try:
            await _parse(request, MultipartParser(boundary, parts.callbacks()))
        except FormParserError as error:
            raise InvalidInput.of("body", f"it is broken: {error}", remedy=_REMEDY) from error
        finally:
            parts.close()
        if not parts.ended:
            raise InvalidInput.of("body", "it is cut short", remedy="send it again")
        yield Received(folder, parts.fields, parts.files)


async def _parse(request: Request, parser: MultipartParser) -> None:
    refused: InvalidInput | None = None
    drained = 0
    async for chunk in request.stream():
        if refused is None:
            try:
                await run_in_threadpool(parser.write, chunk)
            except InvalidInput as error:
                refused = error
        # Many clients read no answer before they have sent everything; a short rest is worth waiting for.
        elif (drained := drained + len(chunk)) > DRAIN_BYTES:
            break
    if refused is not None:
        raise refused
    parser.finalize()


@dataclass
class _Parts:
    """Collects parts; the parser calls it."""

    folder: Path
    field_names: frozenset[str]
    file_names: frozenset[str]
    several: bool
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _name: str = ""
    _value: bytearray = field(default_factory=bytearray)
    _file: BinaryIO | None = None

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._part_begin,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _part_begin(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._value.clear()
        is_file = b"filename" in options
        if self._name not in (self.file_names if is_file else self.field_names):
            raise self._unknown(is_file)
        if self._name in self.fields or (self._name in self.files and not self.several):
            raise InvalidInput.of(self._name, "it was sent twice", remedy="send it once")
        if is_file:
            self._file = self._open(options[b"filename"].decode(errors="replace"))

    def _unknown(self, is_file: bool) -> InvalidInput:
        if self._name in self.file_names | self.field_names:
            problem = "it is sent as a file" if is_file else "it is sent as text"
            remedy = "send it as text" if is_file else "send it as a file"
        else:
            known = ", ".join(sorted(self.field_names | self.file_names))
            problem, remedy = "no such field", f"there are {known}"
        return InvalidInput.of(self._name[:100] or "body", problem, remedy=remedy)

    def _open(self, file_name: str) -> BinaryIO:
        paths = self.files.setdefault(self._name, [])
        if not self.several:
            file_name = "file"
        elif not _PLAIN_NAME.fullmatch(file_name):
            raise InvalidInput.of(
                self._name,
                "not a plain file name",
                value=file_name,
                remedy="use letters, digits, '.', '_' and '-', without folders",
            )
        path = self.folder / self._name / file_name
        if path in paths:
            raise InvalidInput.of(self._name, "it was sent twice", value=file_name, remedy="send it once")
        if len(paths) >= MAX_FILES:
            raise InvalidInput.of(self._name, f"more than {MAX_FILES} files", remedy="send fewer")
        path.parent.mkdir(exist_ok=True)
        paths.append(path)
        return path.open("xb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidInput.of(self._name, f"longer than {MAX_FIELD_BYTES} bytes", remedy="shorten it")

    def _part_end(self) -> None:
        if self._file is not None:
            self.close()
            return
        try:
            self.fields[self._name] = self._value.decode()
        except UnicodeDecodeError:
            raise InvalidInput.of(self._name, "not valid UTF-8", remedy="send it as UTF-8") from None

    def _end(self) -> None:
        self.ended = True


def documented(properties: Mapping[str, Any], required: Collection[str]) -> dict[str, Any]:
    """What OpenAPI should say of such a body, for a route's `openapi_extra`."""
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
