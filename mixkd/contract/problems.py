"""What is wrong with an input, in a form that a user can act on."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, why it cannot be, what was given, what to do."""

    field: str
    problem: str
    value: object = None
    remedy: str | None = None


class RefusedError(Exception):
    """An input that cannot work, refused before any of it is used."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(f"{p.field}: {p.problem}" for p in problems))
        self.problems = problems


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Names in quotes, with commas; the first `limit` of them."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
