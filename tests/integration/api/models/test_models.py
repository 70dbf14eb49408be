"""Registering models by upload and by path; what is refused, and that nothing is left of it."""

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from core.accounts import service as accounts
from core.db import SessionFactory
from core.jobs.models import Job
from core.models import service
from core.models.models import Model
from core.storage import Storage, StoredFile, digest
from tests.support.model_requests import KEPT, problem, refused, register, upload
from tests.support.tiny import jsonl, write_bert


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


# -- uploads ---------------------------------------------------------------------------------------------


def test_an_upload_is_ready_at_once_without_what_loading_does_not_need(
    api: TestClient, storage: Storage, row: Callable[[str], Model], tmp_path: Path
) -> None:
    folder = write_bert(tmp_path / "m", layers=3, labels=["no", "yes"])
    (folder / "README.md").write_text("hello")
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    answer = upload(api, folder)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["id"].startswith("mdl_")
    assert (made["kind"], made["status"], made["source"]) == ("teacher", "ready", "upload:")
    assert (made["info"]["layers"], made["info"]["labels"]) == (3, ["no", "yes"])
    assert [file["path"] for file in made["files"]] == KEPT
    assert api.get(f"/v1/models/{made['id']}").json() == made
    prefix = row(made["id"]).prefix
    assert sorted(storage.keys("models")) == [f"{prefix}/{name}" for name in KEPT]
    for file in made["files"]:
        storage.fetch(f"{prefix}/{file['path']}", tmp_path / "copy", StoredFile(file["size"], file["sha256"]))
        assert digest(folder / file["path"]) == StoredFile(file["size"], file["sha256"])


def test_pickled_weights_are_refused_and_never_opened(
    api: TestClient, nothing_kept: Callable[[], None], tmp_path: Path
) -> None:
    folder = write_bert(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    error = problem(upload(api, folder))
    assert error["field"] == "files.pytorch_model.bin"
    assert "safetensors" in error["remedy"]
    assert not (tmp_path / "opened").exists()
    nothing_kept()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert (tmp_path / "opened").exists(), "the trap must be one"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "files.config.json"),
        ({"model_type": "gpt2"}, "files.config.json"),
        ({"num_hidden_layers": 12}, "files.model.safetensors"),
    ],
)
def test_an_upload_that_cannot_be_used_is_refused_by_file(
    api: TestClient, nothing_kept: Callable[[], None], tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    folder = write_bert(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert problem(upload(api, folder))["field"] == field
    nothing_kept()


@pytest.mark.parametrize(
    "name", ["../config.json", "/etc/passwd", "a/b", "..", "", ".hidden", "a\\b", "x" * 300, "naïve.json"]
)
def test_a_file_name_that_is_none_is_refused(
    api: TestClient, nothing_kept: Callable[[], None], tmp_path: Path, name: str
) -> None:
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n{{}}\r\n--x--\r\n'
    answer = api.post(
        "/v1/models/upload",
        content=body.encode(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert problem(answer)["field"] == "files"
    nothing_kept()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "storage", "work"]


def test_an_upload_without_files_or_with_one_twice_is_refused(
    api: TestClient, nothing_kept: Callable[[], None]
) -> None:
    none = api.post("/v1/models/upload", files={"name": (None, "tiny")})
    assert problem(none)["field"] == "files"
    twice = api.post(
        "/v1/models/upload", data={"name": "x"}, files=[("files", ("a", b"1")), ("files", ("a", b"2"))]
    )
    assert problem(twice)["value"] == "a"
    nothing_kept()


def test_a_repeated_upload_makes_nothing_new(api: TestClient, storage: Storage, tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "m")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: upload(api, folder, key="k"), range(4)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(list(storage.keys("models"))) == len(KEPT)
    assert upload(api, folder, key="k", name="another").status_code == 409


# -- paths -----------------------------------------------------------------------------------------------


def test_a_folder_under_a_root_is_inspected_at_once_and_copied_later(
    *,
    api: TestClient,
    run_import: Callable[[str], None],
    storage: Storage,
    row: Callable[[str], Model],
    root: Path,
    sessions: SessionFactory,
) -> None:
    folder = write_bert(root / "deep" / "m")
    answer = register(api, f"path:{folder}")
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert (made["status"], made["info"], made["files"]) == ("importing", None, [])
    with sessions() as session:
        assert service.importing(session) == [made["id"]]
    run_import(made["id"])
    ready = api.get(f"/v1/models/{made['id']}").json()
    assert (ready["status"], ready["source"], ready["info"]["layers"]) == ("ready", f"path:{folder}", 2)
    assert [file["path"] for file in ready["files"]] == KEPT
    prefix = row(made["id"]).prefix
    assert b"".join(storage.read(f"{prefix}/config.json")) == (folder / "config.json").read_bytes()
    with sessions() as session:
        assert service.importing(session) == []


def test_a_path_outside_the_roots_is_refused_in_the_same_words_whatever_is_there(
    api: TestClient, nothing_kept: Callable[[], None], root: Path, tmp_path: Path
) -> None:
    outside = write_bert(tmp_path / "outside")
    write_bert(tmp_path / "models-of-others")
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    (root / "file").write_text("no folder")
    sources = [
        f"path:{outside}",
        f"path:{tmp_path / 'models-of-others'}",
        f"path:{root}/../outside",
        f"path:{root}/link",
        f"path:{root}/link/../outside",
        f"path:{root}/loop",
        f"path:{root}/file",
        f"path:{root}/missing",
        f"path:{tmp_path}/missing",
        "path:/",
        "path:/etc",
        "path:models",
        "path:",
        "path:" + "a" * 890,
    ]
    errors = [problem(register(api, source)) for source in sources]
    assert {error["field"] for error in errors} == {"source"}
    assert len({error["problem"] for error in errors}) == 1
    assert len({error["remedy"] for error in errors}) == 1
    nothing_kept()


@pytest.mark.parametrize("source", ["/models/m", "file:///m", "s3://a/b", "hf:org/m", "PATH:/m", "m"])
def test_a_source_of_another_kind_is_refused(
    api: TestClient, nothing_kept: Callable[[], None], source: str
) -> None:
    assert problem(register(api, source))["field"] == "source"
    nothing_kept()


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_a_file_that_links_out_of_the_folder_is_refused(
    api: TestClient, nothing_kept: Callable[[], None], root: Path, tmp_path: Path, name: str
) -> None:
    folder = write_bert(root / "m")
    (folder / name).rename(tmp_path / "secret")
    (folder / name).symlink_to(tmp_path / "secret")
    error = problem(register(api, f"path:{folder}"))
    assert error["field"] == f"source.{name}"
    nothing_kept()


def test_pickled_weights_in_a_folder_are_refused_at_once(
    api: TestClient, nothing_kept: Callable[[], None], root: Path
) -> None:
    folder = write_bert(root / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert problem(register(api, f"path:{folder}"))["field"] == "source.pytorch_model.bin"
    nothing_kept()


def test_a_folder_that_changed_after_it_was_registered_is_judged_anew(
    api: TestClient, run_import: Callable[[str], None], storage: Storage, root: Path, tmp_path: Path
) -> None:
    spoilt = write_bert(root / "spoilt")
    ids = [register(api, f"path:{spoilt}").json()["id"]]
    (spoilt / "config.json").write_text('{"model_type": "bert", "auto_map": {}}')

    linked = write_bert(root / "linked")
    ids.append(register(api, f"path:{linked}").json()["id"])
    (linked / "vocab.txt").rename(tmp_path / "secret")
    (linked / "vocab.txt").symlink_to(tmp_path / "secret")

    piped = write_bert(root / "piped")
    ids.append(register(api, f"path:{piped}").json()["id"])
    (piped / "vocab.txt").unlink()
    os.mkfifo(piped / "vocab.txt")

    swapped = write_bert(root / "swapped")
    ids.append(register(api, f"path:{swapped}").json()["id"])
    swapped.rename(tmp_path / "elsewhere")
    swapped.symlink_to(tmp_path / "elsewhere")

    storage.put_file(f"models/{ids[0]}/of-a-try-that-died/vocab.txt", spoilt / "vocab.txt")
    for model_id in ids:
        run_import(model_id)
    fields = [refused(api, model_id)["field"] for model_id in ids]
    assert fields == ["source.config.json", "source.vocab.txt", "source.vocab.txt", "source"]
    assert list(storage.keys("models")) == []


def test_a_repeated_registration_makes_nothing_new(api: TestClient, root: Path) -> None:
    source = f"path:{write_bert(root / 'm')}"
    first, second = register(api, source, key="k"), register(api, source, key="k")
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert second.headers["Idempotent-Replay"] == "true"
    assert register(api, "hf://org/tiny", key="k").status_code == 409
    assert len(api.get("/v1/models").json()["items"]) == 1


# -- reading, and what it is for -------------------------------------------------------------------------


def test_lists_are_cut_into_pages_and_show_the_owners_own(api: TestClient, sessions: SessionFactory) -> None:
    ids = [register(api, f"hf://org/m{n}").json()["id"] for n in range(3)]
    page = api.get("/v1/models?limit=2").json()
    rest = api.get(f"/v1/models?limit=2&cursor={page['next_cursor']}").json()
    assert [item["id"] for item in page["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None
    with sessions.begin() as session:
        key = accounts.create_key(session, "bob", "test")[1]
    bob = {"Authorization": f"Bearer {key}"}
    assert api.get("/v1/models", headers=bob).json()["items"] == []
    assert api.get(f"/v1/models/{ids[0]}", headers=bob).status_code == 404


def test_a_job_that_does_not_fit_its_teacher_is_refused_and_not_stored(
    api: TestClient, sessions: SessionFactory, tmp_path: Path
) -> None:
    teacher = upload(api, write_bert(tmp_path / "m", layers=2, labels=["no", "yes"])).json()
    content = jsonl(("is it so ?", "yes"), ("who is it ?", "human"))
    data = api.post("/v1/datasets", data={"name": "d"}, files={"train": content}).json()
    body = {
        "teacher_id": teacher["id"],
        "dataset_id": data["id"],
        "recipe": {"student": {"layers": 3}, "max_length": 16},
    }
    answer = api.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    errors = {error["field"]: error for error in answer.json()["errors"]}
    assert errors.keys() == {"recipe.student.layers", "dataset_id"}
    assert "2 layers" in errors["recipe.student.layers"]["problem"]
    assert "'human'" in errors["dataset_id"]["problem"]
    assert "'no', 'yes'" in errors["dataset_id"]["problem"]
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
