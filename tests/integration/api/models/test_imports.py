"""Importing registered models, from a folder or a hub: twice, at once, halfway, damaged."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import update

from core.config import Settings
from core.db import SessionFactory
from core.errors import Unavailable
from core.models import local, service
from core.models.models import Model
from core.storage import Storage, StoredFile
from tests.support.hub import Hub
from tests.support.model_requests import KEPT, problem, refused, register
from tests.support.tiny import write_bert

# -- the import ------------------------------------------------------------------------------------------


def test_importing_twice_and_at_once_keeps_one_copy(
    api: TestClient, run_import: Callable[[str], None], storage: Storage, root: Path
) -> None:
    made = register(api, f"path:{write_bert(root / 'm')}").json()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run_import, [made["id"]] * 4))
    run_import(made["id"])
    assert api.get(f"/v1/models/{made['id']}").json()["status"] == "ready"
    assert len(list(storage.keys("models"))) == len(KEPT)


def test_a_second_importer_that_finishes_first_wins_and_the_other_leaves_nothing(
    *,
    api: TestClient,
    run_import: Callable[[str], None],
    storage: Storage,
    row: Callable[[str], Model],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock is a convenience: here both get past it, and one runs from end to end inside the other."""
    made = register(api, f"path:{write_bert(root / 'm')}").json()
    copy, prefixes = local.copy, []

    def overtaken(*arguments: Any) -> None:
        copy(*arguments)
        monkeypatch.setattr(local, "copy", copy)
        run_import(made["id"])
        prefixes.append(row(made["id"]).prefix)

    monkeypatch.setattr(local, "copy", overtaken)
    monkeypatch.setattr(service.imports, "sole_importer", _everybody)
    run_import(made["id"])
    assert row(made["id"]).prefix == prefixes[0]
    assert sorted(storage.keys("models")) == [f"{prefixes[0]}/{name}" for name in KEPT]


class _everybody:  # noqa: N801 - it stands in for a function
    def __init__(self, *_: object) -> None:
        """Takes no lock."""

    def __enter__(self) -> bool:
        return True

    def __exit__(self, *_: object) -> None:
        """Has nothing to let go of."""


def test_an_import_that_died_halfway_is_run_again_and_its_files_go(
    api: TestClient, run_import: Callable[[str], None], storage: Storage, root: Path, tmp_path: Path
) -> None:
    made = register(api, f"path:{write_bert(root / 'm')}").json()
    (tmp_path / "half").write_bytes(b"half")
    storage.put_file(f"models/{made['id']}/01aaaaaaaaaaaaaaaaaaaaaaaa/config.json", tmp_path / "half")
    run_import(made["id"])
    assert api.get(f"/v1/models/{made['id']}").json()["status"] == "ready"
    assert len(list(storage.keys("models"))) == len(KEPT)


def test_an_import_whose_storage_fails_leaves_nothing_and_can_be_run_again(
    api: TestClient,
    run_import: Callable[[str], None],
    storage: Storage,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = register(api, f"path:{write_bert(root / 'm')}").json()
    put_file = Storage.put_file

    def fail_at_the_last(self: Storage, key: str, path: Path) -> StoredFile:
        if key.endswith("vocab.txt"):
            raise OSError("no space")
        return put_file(self, key, path)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put_file", fail_at_the_last)
        with pytest.raises(OSError, match="no space"):
            run_import(made["id"])
    assert list(storage.keys("models")) == []
    assert api.get(f"/v1/models/{made['id']}").json()["status"] == "importing"
    run_import(made["id"])
    assert api.get(f"/v1/models/{made['id']}").json()["status"] == "ready"


# -- the hub ---------------------------------------------------------------------------------------------


def test_a_hub_model_is_fetched_at_the_commit_that_is_recorded(
    api: TestClient, run_import: Callable[[str], None], hub: Hub, tmp_path: Path
) -> None:
    hub.folders["org/tiny"] = folder = write_bert(tmp_path / "hub", labels=["no", "yes"])
    for name in ("pytorch_model.bin", "modeling.py", "README.md"):
        (folder / name).write_text("not wanted")
    answer = register(api, "hf://org/tiny")
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["source"]) == ("importing", "hf://org/tiny@main")
    assert hub.requests == [], "a hub is not part of a request"
    run_import(answer.json()["id"])
    ready = api.get(f"/v1/models/{answer.json()['id']}").json()
    assert ready["status"] == "ready", ready
    assert ready["source"] == f"hf://org/tiny@{hub.commit('org/tiny')}"
    assert ready["info"]["labels"] == ["no", "yes"]
    assert [file["path"] for file in ready["files"]] == KEPT
    assert {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request} == set(KEPT)


@pytest.mark.parametrize(
    ("source", "field", "words"),
    [
        ("hf://org/none@main", "source", "no such model"),
        ("hf://org/tiny@v9", "source", "no such revision"),
        ("hf://org/gated@main", "source", "conditions"),
        ("hf://org/pickled@main", "source.pytorch_model.bin", "not opened"),
        ("hf://org/remote@main", "source.config.json", "auto_map"),
        ("hf://org/odd@main", "source.model.safetensors", "broken entry"),
    ],
)
def test_a_hub_model_that_cannot_be_used_is_refused_with_the_reason(
    *,
    api: TestClient,
    run_import: Callable[[str], None],
    hub: Hub,
    storage: Storage,
    tmp_path: Path,
    source: str,
    field: str,
    words: str,
) -> None:
    hub.folders["org/tiny"] = hub.folders["org/gated"] = write_bert(tmp_path / "tiny")
    hub.folders["org/remote"] = write_bert(tmp_path / "remote", auto_map={"AutoModel": "modeling.Evil"})
    hub.folders["org/pickled"] = write_bert(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    hub.gated.add("org/gated")
    hub.folders["org/odd"] = write_bert(tmp_path / "odd")
    header = json.dumps({"a\0b\ud800": None}).encode()  # what Postgres would not take in a reason
    odd = len(header).to_bytes(8, "little") + header
    (tmp_path / "odd" / "model.safetensors").write_bytes(odd)
    made = register(api, source).json()
    run_import(made["id"])
    error = refused(api, made["id"])
    assert error["field"] == field
    assert words in error["problem"]
    assert not any(request.endswith(".bin") for request in hub.requests)
    assert list(storage.keys("models")) == []


@pytest.mark.parametrize(
    "source", ["hf://", "hf://tiny", "hf://a/b/c", "hf://org/../tiny", "hf://org/t@", "hf://org/t@a/../b"]
)
def test_a_reference_of_another_form_is_refused_at_once(
    api: TestClient, nothing_kept: Callable[[], None], source: str
) -> None:
    assert problem(register(api, source))["remedy"] == "write hf://organisation/name@revision"
    nothing_kept()


def test_a_hub_that_does_not_answer_is_tried_again_but_not_for_ever(
    api: TestClient, run_import: Callable[[str], None], hub: Hub, sessions: SessionFactory, tmp_path: Path
) -> None:
    hub.folders["org/tiny"] = write_bert(tmp_path / "hub")
    hub.broken = True
    ids = [register(api, "hf://org/tiny").json()["id"] for _ in range(2)]
    with pytest.raises(Unavailable):
        run_import(ids[0])
    assert api.get(f"/v1/models/{ids[0]}").json()["status"] == "importing"
    with sessions.begin() as session:
        session.execute(
            update(Model).where(Model.id == ids[1]).values(created_at=Model.created_at - timedelta(hours=2))
        )
    run_import(ids[1])
    assert "does not answer" in refused(api, ids[1])["problem"]
    hub.broken = False
    run_import(ids[0])
    assert api.get(f"/v1/models/{ids[0]}").json()["status"] == "ready"


def test_a_file_that_arrives_damaged_is_not_kept(
    api: TestClient, run_import: Callable[[str], None], hub: Hub, storage: Storage, tmp_path: Path
) -> None:
    hub.folders["org/tiny"] = write_bert(tmp_path / "hub")
    hub.promised_sha256 = "0" * 64
    made = register(api, "hf://org/tiny").json()
    with pytest.raises(Unavailable, match="damaged"):
        run_import(made["id"])
    assert list(storage.keys("models")) == []


def test_the_operators_token_is_sent_to_the_hub_and_kept_from_the_user(
    *,
    api: TestClient,
    hub: Hub,
    sessions: SessionFactory,
    storage: Storage,
    own_settings: Settings,
    tmp_path: Path,
) -> None:
    hub.folders["org/gated"] = write_bert(tmp_path / "hub")
    hub.gated.add("org/gated")
    made = register(api, "hf://org/gated").json()
    with_token = own_settings.model_copy(update={"hub_token": SecretStr("hf_accepted")})
    service.run_import(sessions, storage, with_token, made["id"])
    answer = api.get(f"/v1/models/{made['id']}")
    assert answer.json()["status"] == "ready"
    assert "hf_accepted" not in answer.text
