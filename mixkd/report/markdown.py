"""Pieces of Markdown that hold whatever text a user's data has."""

import html
import re
from collections.abc import Iterable, Sequence

from mixkd.printable import printable


def plain(text: str) -> str:
    """Text that Markdown, tables and HTML take for nothing but text, on one line."""
    readable = printable(" ".join(text.splitlines()))
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", html.escape(readable, quote=False))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table of cells that are Markdown already; the first columns hold words, all others numbers."""
    lines = [head, ["-"] * words + ["-:"] * (len(head) - words), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
