"""The `Idempotency-Key` header and the answer to a repetition.

    repetition = idempotency.repeatable(principal.owner_id, key, "jobs", body.model_dump(mode="json"))
    job_id = new_id("job")
    if earlier := idempotency.claim(session, repetition, job_id):
        mark_replay(response)
        return read(earlier)
    ...make job_id in this very session...

`repeatable`, `find` and `claim` are `core.accounts.idempotency`'s.
"""

from typing import Annotated

from fastapi import Header, Response

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="Repeating a request with the same key answers with what the first one made.",
    ),
]


def mark_replay(response: Response) -> None:
    """Say that this answer is a repetition's."""
    response.headers["Idempotent-Replay"] = "true"
