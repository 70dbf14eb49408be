"""A service of its own for each fault."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.cluster import Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Database, broker, storage and no worker yet. What it is asked to train is judged at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mixkd-faults-")))
        folder.chmod(0o711)  # as root, Postgres's account passes through
        made = Cluster(folder, stack)
        yield made
        made.until_ended()
        assert made.violations() == []
