"""A service without its HTTP face: the database, the broker, storage, and things to run in it."""

import pytest

from core.config import Settings
from core.db import SessionFactory
from core.storage import Storage
from tests.support.jobs import Bench


@pytest.fixture
def storage(settings: Settings) -> Storage:
    """The service's storage."""
    return Storage(settings.storage_url)


@pytest.fixture
def bench(sessions: SessionFactory, storage: Storage) -> Bench:
    """An owner with a ready teacher and a ready data set."""
    return Bench(sessions, storage)
