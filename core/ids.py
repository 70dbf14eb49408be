"""Prefixed, sortable identifiers: `job_01k…`. Sorting by id is sorting by time of creation.

To the millisecond, and by the clock of the machine that made it: within one the order is random.
"""

from typing import Literal

from ulid import ULID

Kind = Literal["own", "key", "ds", "mdl", "job", "wrk"]


def new_id(kind: Kind) -> str:
    """A fresh identifier: the kind, an underscore, a ULID in lower case (26 characters)."""
    return f"{kind}_{str(ULID()).lower()}"
