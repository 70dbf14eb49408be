"""What must never be shown or logged: our keys, the hub's, and passwords in URLs."""

import re

_SECRETS = (
    (re.compile(r"mixkd_[A-Za-z0-9_-]{16,}"), "mixkd_***"),
    (re.compile(r"hf_[A-Za-z0-9]{16,}"), "hf_***"),
    (re.compile(r"(?i)\bbearer\s+[^\s\"',]+"), "Bearer ***"),
    (re.compile(r"(://[^/\s:@\"']*:)[^@/\s\"']+@"), r"\1***@"),
    (re.compile(r"://[^/\s:@\"']+@"), "://***@"),  # a token in the place of the user
)


def censored(text: str) -> str:
    """A text without the secrets that can be told by their looks: a last line of defence."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
