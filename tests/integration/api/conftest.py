"""The API as a client meets it: a real server on a real port, over the real database and broker."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.main import create_app
from core.accounts import service as accounts
from core.accounts.models import Owner
from core.config import Settings
from core.datasets.models import Dataset
from core.db import SessionFactory
from core.ids import new_id
from core.jobs import claims, ends
from core.jobs.models import Job
from core.models.models import Model
from core.storage import Storage
from core.workers import service as workers

Client = Callable[..., httpx.Client]


@pytest.fixture(scope="session")
def app(settings: Settings) -> FastAPI:
    """The application that `base_url` serves; its `state` may be looked at."""
    return create_app(settings)


@pytest.fixture(scope="session")
def base_url(app: FastAPI) -> Iterator[str]:
    """A server in a thread of this process."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def client_of(base_url: str, sessions: SessionFactory) -> Iterator[Client]:
    """`client_of("ada")`: a client with a fresh key of that owner; `client_of(None)`: one without a key."""
    opened: list[httpx.Client] = []

    def make(owner: str | None, key: str | None = None) -> httpx.Client:
        if owner is not None:
            with sessions.begin() as session:
                key = accounts.create_key(session, owner, "test")[1]
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        opened.append(httpx.Client(base_url=base_url, headers=headers, timeout=120))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def api(client_of: Client) -> httpx.Client:
    """A client with a key of the owner `ada`."""
    return client_of("ada")


@pytest.fixture
def owner_id(api: httpx.Client, sessions: SessionFactory) -> str:
    """The id of the owner `ada`."""
    with sessions() as session:
        return session.scalars(select(Owner.id).where(Owner.name == "ada")).one()


@pytest.fixture
def add_teacher(owner_id: str, sessions: SessionFactory) -> Callable[..., str]:
    """`add_teacher(status=…)`: a teacher of ada's without files; ready, unless the columns say otherwise."""

    def add(**columns: Any) -> str:
        model_id = new_id("mdl")
        values: dict[str, Any] = {
            "id": model_id,
            "owner_id": owner_id,
            "name": "MiniLM",
            "kind": "teacher",
            "source": "upload:",
            "status": "ready",
            "prefix": f"models/{model_id}",
            "files": {},
            "info": {
                "family": "bert",
                "layers": 6,
                "hidden_size": 384,
                "vocab_size": 30522,
                "parameters": 22_000_000,
                "max_positions": 512,
                "labels": None,
            },
        }
        with sessions.begin() as session:
            session.add(Model(**values | columns))
        return model_id

    return add


@pytest.fixture
def add_dataset(owner_id: str, sessions: SessionFactory) -> Callable[..., str]:
    """`add_dataset(status=…)`: a data set of ada's without files; ready, unless the columns say otherwise."""

    def add(**columns: Any) -> str:
        dataset_id = new_id("ds")
        split = {
            "rows": 100,
            "label_counts": {"no": 50, "yes": 50},
            "characters": {"min": 5, "median": 20, "p95": 50, "max": 90},
            "duplicate_rows": 0,
        }
        values: dict[str, Any] = {
            "id": dataset_id,
            "owner_id": owner_id,
            "name": "questions",
            "status": "ready",
            "format": "jsonl",
            "columns": {"text": "text", "text_pair": None, "label": "label"},
            "files": {},
            "report": {"labels": ["no", "yes"], "splits": {"train": split}, "texts_in_two_splits": 0},
            "fingerprint": "0" * 64,
        }
        with sessions.begin() as session:
            session.add(Dataset(**values | columns))
        return dataset_id

    return add


@pytest.fixture
def request_body(add_teacher: Callable[..., str], add_dataset: Callable[..., str]) -> dict[str, Any]:
    """A job of ada's that can be submitted."""
    return {
        "teacher_id": add_teacher(),
        "dataset_id": add_dataset(),
        "recipe": {"student": {"layers": 3}},
    }


@pytest.fixture
def run_by_worker(sessions: SessionFactory) -> Callable[[], UUID]:
    """Do what a worker does to the best queued job: claim it. The token of the lease."""

    def claim() -> UUID:
        worker_id, token = new_id("wrk"), uuid4()
        with sessions.begin() as session:
            workers.register(session, worker_id, hostname="testhost", pid=1, device="cpu", gpus=0)
            assert claims.claim(session, worker_id, token, 60) is not None
        return token

    return claim


@pytest.fixture
def finish(
    sessions: SessionFactory, app: FastAPI, tmp_path: Path
) -> Callable[[UUID, dict[str, bytes]], None]:
    """End a running job with a student of these files."""

    def succeed(token: UUID, contents: dict[str, bytes]) -> None:
        with sessions() as session:
            job = session.scalars(select(Job).where(Job.lease_token == token)).one()
        files = {}
        for path, content in contents.items():
            local = tmp_path / "file"
            local.write_bytes(content)
            files[path] = app.state.storage.put_file(f"jobs/{job.id}/{job.fence}/student/{path}", local)
        with sessions.begin() as session:
            info = session.get_one(Model, job.teacher_id).info
            ends.succeed(session, token, files, info or {}, {"student": {"accuracy": 0.93}})

    return succeed


# -- an application of a test's own, in its process, on the settings that the test calls `own_settings` ------


@pytest.fixture
def own_app(own_settings: Settings) -> FastAPI:
    return create_app(own_settings)


@pytest.fixture
def own_api(own_app: FastAPI, sessions: SessionFactory) -> Iterator[TestClient]:
    """A client of that application, with a key of the owner `ada`."""
    with sessions.begin() as session:
        key = accounts.create_key(session, "ada", "test")[1]
    with TestClient(own_app, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture
def storage(own_settings: Settings) -> Storage:
    return Storage(own_settings.storage_url)
