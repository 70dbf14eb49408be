"""HTML out of `templates/`: the environment, and how numbers, times and sizes are shown."""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from api.dashboard import views
from core.accounts.service import Principal
from core.paging import Page

Row = TypeVar("Row")

STATIC = Path(__file__).parent / "static"


def html(template: str, **context: Any) -> str:
    """A page, or a part of one. All that is put into it is escaped."""
    return _environment().get_template(template).render(**context)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("api.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "asking": asking,
        "percent": views.percent,
        "state": views.state,
        "static": static,
        "student_of": views.student,
        "told": views.told,
    }
    environment.filters |= {
        "ago": ago,
        "count": count,
        "duration": duration,
        "pretty": pretty,
        "score": score,
        "sentence": sentence,
        "size": size,
        "times": times,
        "when": when,
        "words": words,
    }
    return environment


@cache
def static(name: str) -> str:
    """The address of one of our files; it changes with the file, which browsers may thus keep for ever."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def asking(query: BaseModel, **changes: str | None) -> str:
    """The query of a link that asks for the same but for `changes`: `?status=failed&cursor=…`."""
    asked = query.model_dump(mode="json", exclude_unset=True) | changes
    return "?" + urlencode({name: value for name, value in asked.items() if value is not None})


def listing(
    template: str, viewer: Principal, query: BaseModel, page: Page[Row], view: Callable[[Row], Any]
) -> Response:
    """One page of a table: `rows` as the API shows them, and where the next page begins."""
    rows = [view(row) for row in page.items]
    return HTMLResponse(html(template, viewer=viewer, query=query, rows=rows, next_cursor=page.next_cursor))


def duration(seconds: float) -> str:
    """Such as `8 s`, `4 min`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def ago(moment: datetime) -> str:
    """How long ago, in whole minutes, hours or days: a list that says so need not change each second."""
    minutes = max(int((datetime.now(UTC) - moment).total_seconds()) // 60, 0)
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    hours = minutes // 60
    return f"{hours} h ago" if hours < 48 else f"{hours // 24} d ago"


def when(moment: datetime) -> str:
    """Date and time, in UTC as everything here."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def score(value: float | None) -> str:
    """A score, with as many digits as mean something."""
    return "–" if value is None else f"{value:.3f}"


def times(ratio: float) -> str:
    """A factor such as `2.1×`."""
    return f"{ratio:.1f}×"


def count(number: float) -> str:
    """Such as `950`, `12,400`, `22.7 M`."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes, such as `612 B`, `4.1 kB`, `66.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if round(number, 1) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def sentence(text: str) -> str:
    """What the API says in passing, as a sentence. A name of the code at its start stays as it is."""
    begins = text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text
    return begins if begins.endswith((".", "!", "?")) or not begins else f"{begins}."


def words(name: str) -> str:
    """A name of the code as words: `out_of_memory` -> `out of memory`."""
    return name.replace("_", " ")


def pretty(value: Mapping[str, Any]) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False)
