"""The stack as a user starts it: `mixkd-server up`, driven through the Python client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mixkd_client import Client
from tests.support.stack import Stack, Start, starter
from tests.support.words import make_data, make_teacher


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that teachers may be registered from."""
    return tmp_path_factory.mktemp("roots")


@pytest.fixture(scope="session")
def stack(roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for all tests that leave it running."""
    with starter() as start:
        yield start(tmp_path_factory.mktemp("stack") / "data", "--model-root", roots)


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as client:
        yield client


@pytest.fixture
def start() -> Iterator[Start]:
    """For tests that stop or kill what they start."""
    with starter() as start:
        yield start


@pytest.fixture(scope="session")
def teacher(roots: Path) -> Path:
    """A random BERT without a head: 2 layers, width 32."""
    return make_teacher(roots / "teacher")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labelled texts that a tiny model can learn."""
    return make_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="session")
def dataset_id(client: Client, data: dict[str, Path]) -> str:
    return client.datasets.upload(
        "words", train=data["train"], validation=data["validation"], test=data["test"]
    ).id


@pytest.fixture(scope="session")
def teacher_id(client: Client, teacher: Path) -> str:
    return client.models.wait(client.models.register("tiny", f"path:{teacher}").id, timeout=60).id
