"""Text of users' data that is safe to show: a label must not move a cursor or turn a line around."""

import re

_CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f"  # ESC and its like, of ASCII and of Latin-1
    "\u2028\u2029"  # ends of lines
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # which way the text after them goes
    "\ud800-\udfff]"  # no UTF-8 holds half a pair
)


def printable(text: str) -> str:
    """The text with control characters as JSON escapes them, `\\u001b`: JSON still says the same after it."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
