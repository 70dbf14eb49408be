"""Everything that can go wrong, as one tree.

MixkdError
├── ConnectionFailed       the service could not be reached, or went away
├── TimedOut               a wait lasted longer than the caller allowed
├── ApiError               the service answered with a problem document
│   ├── Unauthenticated    401  no key, or not a valid one
│   ├── NotFound           404
│   ├── Conflict           409  it exists, but its state forbids this
│   ├── TooLarge           413
│   ├── InvalidInput       422  `.errors` names field, value and remedy
│   ├── Unavailable        503  a part of the service is down (after retries)
│   └── ServerError        any other
├── ImportRefused          a data set or model turned out to be unusable
├── JobFailed              a job that was waited for failed; `.job.failure` says why
├── JobCancelled           … or was cancelled
└── CorruptDownload        bytes that are not those the service promised
"""

from contextlib import suppress
from typing import TYPE_CHECKING

from mixkd_client._types import Job, Problem, ProblemDocument

if TYPE_CHECKING:
    import httpx


class MixkdError(Exception):
    """The root."""


class ConnectionFailed(MixkdError):
    """The service could not be reached, or went away; retries included."""


class TimedOut(MixkdError):
    """A wait lasted longer than the caller allowed. What was waited for goes on."""


class ApiError(MixkdError):
    """The service answered with a problem document."""

    def __init__(self, document: ProblemDocument) -> None:
        self.document = document
        super().__init__(_sentence(document))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.document.status

    @property
    def code(self) -> str:
        """Machine-readable and stable: `invalid_input`, `not_found` …"""
        return self.document.code

    @property
    def detail(self) -> str:
        """What went wrong this time."""
        return self.document.detail

    @property
    def errors(self) -> list[Problem]:
        """Each wrong field with its value and a remedy."""
        return self.document.errors

    @property
    def request_id(self) -> str | None:
        """What to quote to whoever runs the service."""
        return self.document.request_id


class Unauthenticated(ApiError):
    """401: no key, or not a valid one."""


class NotFound(ApiError):
    """404: there is no such thing, or it is somebody else's."""


class Conflict(ApiError):
    """409: it exists, but its state forbids this."""


class TooLarge(ApiError):
    """413: over a limit of the service."""


class InvalidInput(ApiError):
    """422: `errors` names field, value and remedy."""


class Unavailable(ApiError):
    """503: a part of the service is down."""


class ServerError(ApiError):
    """Any other answer that is not a success."""


class ImportRefused(MixkdError):
    """A data set or model turned out to be unusable after it had been accepted for import."""

    def __init__(self, name: str, document: ProblemDocument) -> None:
        self.document = document
        super().__init__(f"{name}: {_sentence(document)}")


class JobFailed(MixkdError):
    """A job that was waited for failed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        why = job.failure
        remedy = f" ({why.remedy})" if why and why.remedy else ""
        super().__init__(
            f"{job.id} failed: {f'{why.cause}: {why.detail}{remedy}' if why else 'no cause given'}"
        )


class JobCancelled(MixkdError):
    """A job that was waited for was cancelled."""

    def __init__(self, job: Job) -> None:
        self.job = job
        super().__init__(f"{job.id} was cancelled")


class CorruptDownload(MixkdError):
    """A file's bytes are not those that the service promised."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthenticated,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: InvalidInput,
    503: Unavailable,
}


def from_response(response: "httpx.Response") -> ApiError:
    """The error that an answer stands for; its body has been read. A proxy's own page is one, too."""
    document = ProblemDocument(detail=response.reason_phrase)
    if "json" in response.headers.get("content-type", ""):
        with suppress(ValueError):  # a proxy's JSON: the status line has to do
            document = ProblemDocument.model_validate_json(response.content)
    document = document.model_copy(update={"status": response.status_code})
    return _BY_STATUS.get(response.status_code, ServerError)(document)


def _sentence(document: ProblemDocument) -> str:
    if document.errors:
        return "; ".join(str(problem) for problem in document.errors)
    quote = f" (request {document.request_id})" if document.request_id and document.status >= 500 else ""
    return f"{document.detail or document.title}{quote}"
