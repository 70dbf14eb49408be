"""What data sets and models share on the wire."""

from collections.abc import Mapping
from typing import Any

from api.schemas.common import ProblemDocument, ProblemEntry, problem_type
from core.errors import InvalidInput


def refusal_view(refusal: Mapping[str, Any] | None) -> ProblemDocument | None:
    """The problem document that the request would have got, had there been time to check."""
    if refusal is None:
        return None
    return ProblemDocument(
        type=problem_type(InvalidInput.code),
        title=InvalidInput.title,
        status=422,
        detail=refusal["detail"],
        code=InvalidInput.code,
        request_id="",  # none: it was found out later
        errors=[ProblemEntry(**entry) for entry in refusal["errors"]],
    )
