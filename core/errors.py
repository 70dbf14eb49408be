"""Every error that a user can meet, as one tree.

    MixkdError
    ├── InvalidInput        the request names something that cannot work
    ├── Unauthenticated     no key, or not one of ours
    ├── Forbidden           a change that another site has sent
    ├── NotFound            no such thing, or not this owner's
    ├── Conflict            it exists, but its state forbids this
    ├── TooLarge            over a stated limit
    └── Unavailable         a part of the service is down; try again

`detail` says in words what is wrong; `problems` name field, value and remedy, one for each thing that is
wrong. Nothing below the API knows of HTTP: `api.problems` gives each class its status, and names the header
or the id in the path where an error has no problem of its own.
"""

from typing import ClassVar

from mixkd.contract.problems import Problem


class MixkdError(Exception):
    """The root. `code` is stable and machine-readable, `title` the same for all of a class."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, detail: str, *problems: Problem) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = problems


class InvalidInput(MixkdError):
    """The request names something that cannot work."""

    code = "invalid_input"
    title = "The request cannot be carried out as it stands"

    @classmethod
    def of(
        cls, field: str, problem: str, *, value: object = None, remedy: str | None = None
    ) -> "InvalidInput":
        """The common case: exactly one field is wrong."""
        return cls(f"{field}: {problem}", Problem(field, problem, value, remedy))


class Unauthenticated(MixkdError):
    """No key, or not one of ours."""

    code = "unauthenticated"
    title = "A valid API key is needed"


class Forbidden(MixkdError):
    """It came from where changes may not come from."""

    code = "forbidden"
    title = "This is not allowed"


class NotFound(MixkdError):
    """No such thing, or not this owner's: the two are not told apart."""

    code = "not_found"
    title = "There is no such thing"


class Conflict(MixkdError):
    """It exists, but its state forbids this."""

    code = "conflict"
    title = "The present state does not allow this"


class TooLarge(MixkdError):
    """Over a stated limit."""

    code = "too_large"
    title = "That is larger than this service accepts"


class Unavailable(MixkdError):
    """A part of the service is down; trying again later is right."""

    code = "unavailable"
    title = "A part of the service is not available"
