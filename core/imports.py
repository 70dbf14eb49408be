"""What data sets and models have in common: they are imported, then ready or refused."""

from enum import StrEnum


class ImportStatus(StrEnum):
    """A thing is of use only when it is `ready`; `refused` carries the reason."""

    IMPORTING = "importing"
    READY = "ready"
    REFUSED = "refused"
