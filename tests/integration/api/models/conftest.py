"""An application of its own for each test, with a model root, a hub and a storage that can be looked into."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.config import Settings
from core.db import SessionFactory
from core.models import service
from core.models.models import Model
from core.storage import Storage, set_up
from tests.support.hub import Hub, running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model root."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # Whoever sets HF_HUB_OFFLINE keeps tests from the network; this hub is on this machine.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with running() as hub:
        yield hub


@pytest.fixture
def own_settings(settings: Settings, tmp_path: Path, root: Path, hub: Hub) -> Settings:
    set_up(storage_url := f"file://{tmp_path / 'storage'}")
    return settings.model_copy(
        update={
            "storage_url": storage_url,
            "work_dir": tmp_path / "work",
            "model_roots": (tmp_path / "no-such-root", root),
            "hub_url": hub.url,
        }
    )


@pytest.fixture
def api(own_api: TestClient) -> TestClient:
    return own_api


@pytest.fixture
def nothing_kept(sessions: SessionFactory, own_settings: Settings, storage: Storage) -> Callable[[], None]:
    def check() -> None:
        with sessions() as session:
            assert session.scalars(select(Model.id)).all() == []
        assert list(storage.keys("models")) == []
        assert not own_settings.work_dir.exists() or list(own_settings.work_dir.iterdir()) == []

    return check


@pytest.fixture
def run_import(sessions: SessionFactory, storage: Storage, own_settings: Settings) -> Callable[[str], None]:
    return lambda model_id: service.run_import(sessions, storage, own_settings, model_id)


@pytest.fixture
def row(sessions: SessionFactory) -> Callable[[str], Model]:
    def read(model_id: str) -> Model:
        with sessions() as session:
            return session.get_one(Model, model_id)

    return read
