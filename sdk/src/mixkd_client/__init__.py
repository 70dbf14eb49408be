"""The Python client of mixkd, distillation as a job.

`Client` is where everything starts. Modules whose name begins with an underscore are private; what is
listed in `__all__`, and `mixkd_client.progress`, is not changed without notice.
"""

from mixkd_client._client import Client
from mixkd_client._errors import (
    ApiError,
    Conflict,
    ConnectionFailed,
    CorruptDownload,
    ImportRefused,
    InvalidInput,
    JobCancelled,
    JobFailed,
    MixkdError,
    NotFound,
    ServerError,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from mixkd_client._types import (
    Attempt,
    Checkpoint,
    Dataset,
    Event,
    Failure,
    Job,
    Metric,
    Model,
    Problem,
    ProblemDocument,
    Progress,
    Resources,
    Student,
    StudentFile,
)

__all__ = [
    "ApiError",
    "Attempt",
    "Checkpoint",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "CorruptDownload",
    "Dataset",
    "Event",
    "Failure",
    "ImportRefused",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobFailed",
    "Metric",
    "MixkdError",
    "Model",
    "NotFound",
    "Problem",
    "ProblemDocument",
    "Progress",
    "Resources",
    "ServerError",
    "Student",
    "StudentFile",
    "TimedOut",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
]
