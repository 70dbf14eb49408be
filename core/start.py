"""What every process of the service sees to before it does anything else."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import obstore.exceptions
from sqlalchemy.exc import DBAPIError

from core import schema
from core.config import Settings
from core.db import connect, trouble
from core.errors import Unavailable
from core.scratch import sweep
from core.storage import Storage, set_up

log = logging.getLogger(__name__)


def prepare(settings: Settings) -> None:
    """See that the database and the storage are there, and remove what dead processes left to scratch.

    Raises:
        MixkdError: what the operator has to do first, in one line.
    """
    engine = connect(settings)
    try:
        schema.require_current(engine)
    except DBAPIError as error:
        raise Unavailable(trouble(error)) from error
    finally:
        engine.dispose()
    with _naming("MIXKD_STORAGE_URL"):
        Storage(settings.storage_url)
    with _naming("MIXKD_WORK_DIR"):
        for name in sweep(settings.work_dir):
            log.info("removed what a dead process left: %s", name)


def set_up_storage(url: str) -> None:
    """Make the storage folder of a new service.

    Raises:
        Unavailable: it cannot be made.
    """
    with _naming("MIXKD_STORAGE_URL"):
        set_up(url)


@contextmanager
def _naming(variable: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, obstore.exceptions.BaseError) as error:
        raise Unavailable(f"{variable} cannot be used: {str(error).splitlines()[0]}") from error
