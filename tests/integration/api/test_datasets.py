"""Uploading data sets: what is kept, what is refused, and that nothing is left of what is refused."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.accounts import service as accounts
from core.config import Settings
from core.datasets import service
from core.datasets.models import Dataset
from core.db import SessionFactory
from core.storage import Storage, set_up
from tests.support.tiny import QUESTIONS, jsonl

Answer = httpx.Response
INLINE = 2000  # bytes


@pytest.fixture
def own_settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings with a storage and a scratch folder of the test's own, and a low limit for inline checks."""
    set_up(storage_url := f"file://{tmp_path / 'storage'}")
    return settings.model_copy(
        update={
            "storage_url": storage_url,
            "work_dir": tmp_path / "work",
            "inline_import_bytes": INLINE,
            "max_upload_bytes": 1 << 20,
        }
    )


@pytest.fixture
def api(own_api: TestClient) -> TestClient:
    return own_api


@pytest.fixture
def nothing_kept(sessions: SessionFactory, own_settings: Settings, storage: Storage) -> Callable[[], None]:
    def check() -> None:
        with sessions() as session:
            assert session.scalars(select(Dataset.id)).all() == []
        assert list(storage.keys("datasets")) == []
        assert not own_settings.work_dir.exists() or list(own_settings.work_dir.iterdir()) == []

    return check


@pytest.fixture
def run_import(sessions: SessionFactory, storage: Storage, own_settings: Settings) -> Callable[[str], None]:
    return lambda dataset_id: service.run_import(sessions, storage, own_settings, dataset_id)


def upload(api: TestClient, train: bytes = QUESTIONS, key: str | None = None, **parts: Any) -> Answer:
    """Parts that are bytes go as files."""
    parts = {"name": "questions", "train": train} | parts
    files = {n: (f"my {n} (1).txt", v) for n, v in parts.items() if isinstance(v, bytes)}
    fields = {n: v for n, v in parts.items() if not isinstance(v, bytes)}
    headers = {"Idempotency-Key": key} if key else {}
    return api.post("/v1/datasets", data=fields, files=files, headers=headers)


def problem(answer: Answer) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert error["remedy"]
    return error


def large(rows: int = 100) -> bytes:
    return jsonl(*((f"question number {n} ?", ("human", "place")[n % 2]) for n in range(rows)))


def test_a_small_data_set_is_ready_at_once_and_stored_as_it_was_sent(
    api: TestClient, storage: Storage
) -> None:
    answer = upload(api, test=jsonl(("who is the man ?", "human")))
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["id"].startswith("ds_")
    assert (made["name"], made["status"], made["refusal"]) == ("questions", "ready", None)
    assert made["columns"] == {"text": "text", "text_pair": None, "label": "label"}
    assert made["report"]["labels"] == ["human", "place", "time"]
    assert made["report"]["splits"]["train"] == {
        "rows": 4,
        "label_counts": {"human": 2, "place": 1, "time": 1},
        "characters": {"min": 16, "median": 17, "p95": 19, "max": 19},
        "duplicate_rows": 0,
    }
    assert made["report"]["texts_in_two_splits"] == 1
    assert api.get(f"/v1/datasets/{made['id']}").json() == made
    assert b"".join(storage.read(f"datasets/{made['id']}/train.jsonl")) == QUESTIONS
    assert sorted(storage.keys("datasets")) == [
        f"datasets/{made['id']}/test.jsonl",
        f"datasets/{made['id']}/train.jsonl",
    ]


def test_csv_with_named_columns(api: TestClient) -> None:
    answer = upload(
        api,
        b"id,question,class\r\n1,who ?,human\r\n2,where ?,place\r\n",
        format="csv",
        columns='{"text": "question", "label": "class"}',
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["report"]["labels"] == ["human", "place"]


def scores(*rows: tuple[str, float]) -> bytes:
    return b"".join(json.dumps({"text": text, "label": score}).encode() + b"\n" for text, score in rows)


def test_scores_are_a_regression(api: TestClient) -> None:
    rows = scores(("bad", 0.5), ("fair", 2.5), ("good", 4.75))
    made = upload(api, rows, task="regression", score_range="[0, 5]").json()
    assert (made["task"], made["reading"]) == (
        "regression",
        {"task": "regression", "score_range": [0, 5]},
    )
    assert made["report"]["task"] == "regression"
    outside = upload(api, rows, task="regression", score_range="[0, 4]")
    assert outside.status_code == 422
    assert "4.75" in outside.json()["errors"][0]["problem"]


def test_several_labels_a_row(api: TestClient) -> None:
    rows = b"text\tlabel\nred and blue\tred|blue\nnothing\t\nblue\tblue\n"
    made = upload(api, rows, format="tsv", task="multi_label").json()
    assert made["report"]["labels"] == ["blue", "red"]


def test_parquet_with_a_hubs_numbers_for_labels(api: TestClient, tmp_path: Path) -> None:
    from pyarrow import parquet, table

    path = tmp_path / "train.parquet"
    columns = {"sentence": ["a fine film", "a dull one", "fine"], "label": [1, 0, 1]}
    parquet.write_table(table(columns), path)
    answer = upload(
        api,
        path.read_bytes(),
        format="parquet",
        columns='{"text": "sentence"}',
        label_names='{"0": "negative", "1": "positive"}',
        labels='["negative", "positive"]',
    )
    assert answer.status_code == 201, answer.text
    assert answer.json()["report"]["labels"] == ["negative", "positive"]


def test_how_files_are_read_is_a_part_of_the_fingerprint(api: TestClient) -> None:
    rows = scores(("bad", 1), ("fair", 2), ("good", 3))
    prints = {
        upload(api, rows).json()["fingerprint"],
        upload(api, rows, task="regression").json()["fingerprint"],
        upload(api, rows, task="regression", score_range="[0, 5]").json()["fingerprint"],
    }
    assert len(prints) == 3


def test_the_fingerprint_tells_contents_apart_and_not_names(api: TestClient) -> None:
    prints = [
        upload(api).json()["fingerprint"],
        upload(api, name="another name").json()["fingerprint"],
        upload(api, QUESTIONS + jsonl(("who ?", "human"))).json()["fingerprint"],
        upload(api, validation=QUESTIONS).json()["fingerprint"],
        upload(api, test=QUESTIONS).json()["fingerprint"],
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    ("parts", "field", "words"),
    [
        ({"columns": '{"text": "question"}'}, "columns.text", "its columns are 'text', 'label'"),
        ({"columns": '{"text": "Text"}'}, "columns.text", "no column 'Text'"),
        ({"train": jsonl(("a", "x"), ("b", "x"))}, "files.train", "same label"),
        ({"train": b""}, "files.train", "no row"),
        ({"train": b"text,label\n", "format": "csv"}, "files.train", "no row"),
        ({"train": b'{"text": "caf\xe9", "label": "x"}\n'}, "files.train", "line 1: not valid UTF-8"),
        ({"train": QUESTIONS + b'{"text": "a"}\n'}, "files.train", "line 5: 'label' is missing"),
        ({"test": jsonl(("a", "thing"))}, "files.test", "'thing'"),
        ({"format": "xlsx"}, "format", "jsonl"),
        ({"format": "parquet"}, "files.train", "Parquet"),
        ({"task": "ranking"}, "task", "single_label"),
        ({"labels": '["human", "thing"]'}, "files.train", "'place'"),
        ({"label_names": '{"human": "H"}'}, "files.train", "place"),
        ({"task": "regression"}, "files.train", "number"),
        ({"score_range": "[0, 5]"}, "body", "of a regression"),
        ({"metrics": '["pearson"]'}, "body", "single_label"),
        ({"format": "csv"}, "columns.text", "no column 'text'"),
        ({"columns": "{"}, "columns", "JSON"),
        ({"columns": '{"texts": "a"}'}, "columns.texts", "no such field"),
        ({"name": " "}, "name", "1 character"),
        ({"naem": "x"}, "naem", "no such field"),
        ({"trian": b"x"}, "trian", "no such field"),
        ({"validation": "text"}, "validation", "sent as text"),
        ({"name": b"file"}, "name", "sent as a file"),
        ({"columns": "x" * 70_000}, "columns", "longer than"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name_and_nothing_is_kept(
    api: TestClient, nothing_kept: Callable[[], None], parts: dict[str, Any], field: str, words: str
) -> None:
    answer = upload(api, **parts)
    assert answer.status_code == 422, answer.text
    error = next(e for e in answer.json()["errors"] if e["field"] == field)
    assert words in error["problem"]
    assert error["remedy"]
    nothing_kept()


def test_bad_rows_are_named_by_line(api: TestClient, nothing_kept: Callable[[], None]) -> None:
    error = problem(upload(api, QUESTIONS + b"no\n" * 25 + QUESTIONS))
    assert error["value"] == list(range(5, 25))
    assert error["problem"].startswith("25 bad rows: line 5: not valid JSON")
    nothing_kept()


def test_a_part_that_is_missing_or_sent_twice_is_named(
    api: TestClient, nothing_kept: Callable[[], None]
) -> None:
    missing = api.post("/v1/datasets", data={"name": "x"}, files={"test": b"x"})
    assert problem(missing)["field"] == "train"
    twice = api.post("/v1/datasets", data={"name": "x"}, files=[("train", b"x"), ("train", b"y")])
    assert problem(twice)["field"] == "train"
    nothing_kept()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="train"; filename="a"\r\n\r\nhalf',
            "multipart/form-data; boundary=x",
        ),
        (b"{}", "multipart/form-data"),
        (b"{}", "application/json"),
        (b"a=b", "application/x-www-form-urlencoded"),
    ],
)
def test_a_broken_body_is_refused(
    api: TestClient, nothing_kept: Callable[[], None], content: bytes, kind: str
) -> None:
    answer = api.post("/v1/datasets", content=content, headers={"Content-Type": kind})
    problem(answer)
    nothing_kept()


def test_a_body_over_the_limit_is_refused(api: TestClient, nothing_kept: Callable[[], None]) -> None:
    assert upload(api, b"x" * (1 << 20)).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="train"; filename="a"\r\n\r\n'
        for _ in range(20):
            yield b"x" * 100_000

    streamed = api.post(
        "/v1/datasets", content=chunks(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert streamed.status_code == 413
    nothing_kept()


def test_without_a_key_nothing_is_read(own_app: FastAPI, nothing_kept: Callable[[], None]) -> None:
    with TestClient(own_app) as stranger:
        assert upload(stranger).status_code == 401
    nothing_kept()


def test_a_failure_of_the_database_leaves_nothing_in_storage(
    api: TestClient, own_app: FastAPI, nothing_kept: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "fingerprint", lambda *_: "x" * 65)  # too long for its column
    with TestClient(own_app, headers=dict(api.headers), raise_server_exceptions=False) as client:
        answer = upload(client)
    assert answer.status_code == 500
    assert "fingerprint" not in answer.text
    nothing_kept()


def test_a_repetition_makes_nothing_new(api: TestClient, sessions: SessionFactory, storage: Storage) -> None:
    first, second = upload(api, key="k"), upload(api, key="k")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second.headers["Idempotent-Replay"] == "true"
    assert "Idempotent-Replay" not in first.headers
    assert len(list(storage.keys("datasets"))) == 1
    assert upload(api, QUESTIONS * 2, key="k").status_code == 409
    assert len(list(storage.keys("datasets"))) == 1


def test_the_same_key_at_the_same_moment_makes_one(api: TestClient, storage: Storage) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: upload(api, key="k"), range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(list(storage.keys("datasets"))) == 1


def test_lists_are_cut_into_pages_and_show_the_owners_own(
    api: TestClient, own_app: FastAPI, sessions: SessionFactory
) -> None:
    ids = [upload(api).json()["id"] for _ in range(3)]
    page = api.get("/v1/datasets?limit=2").json()
    rest = api.get(f"/v1/datasets?limit=2&cursor={page['next_cursor']}").json()
    assert [item["id"] for item in page["items"] + rest["items"]] == ids[::-1]
    assert rest["next_cursor"] is None
    with sessions.begin() as session:
        key = accounts.create_key(session, "bob", "test")[1]
    bob = {"Authorization": f"Bearer {key}"}
    assert api.get("/v1/datasets", headers=bob).json()["items"] == []
    assert api.get(f"/v1/datasets/{ids[0]}", headers=bob).status_code == 404


# -- large ones ------------------------------------------------------------------------------------------


def test_a_large_one_is_checked_by_the_control_worker(
    api: TestClient, run_import: Callable[[str], None], sessions: SessionFactory
) -> None:
    content = large()
    answer = upload(api, content, key="k")
    assert answer.status_code == 202
    made = answer.json()
    assert (made["status"], made["report"], made["fingerprint"]) == ("importing", None, None)
    with sessions() as session:
        assert service.importing(session) == [made["id"]]
    run_import(made["id"])
    ready = api.get(f"/v1/datasets/{made['id']}").json()
    assert ready["status"] == "ready"
    assert ready["report"]["splits"]["train"]["rows"] == 100
    with sessions() as session:
        assert service.importing(session) == []
        row = session.get_one(Dataset, made["id"])
        assert row.files["train"] == {
            "path": "train.jsonl",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    repeated = upload(api, content, key="k")
    assert (repeated.status_code, repeated.json()) == (202, ready)


def test_a_large_one_that_cannot_be_used_keeps_the_reason_and_no_file(
    api: TestClient, run_import: Callable[[str], None], storage: Storage, own_settings: Settings
) -> None:
    bad = b'{"text": "caf\xe9", "label": "x"}\n{"text": "a\\u0000", "label": "x"}\n'
    made = upload(api, large() + bad).json()
    assert made["status"] == "importing"
    run_import(made["id"])
    answer = api.get(f"/v1/datasets/{made['id']}").json()
    assert answer["status"] == "refused"
    assert answer["refusal"]["code"] == "invalid_input"
    (error,) = answer["refusal"]["errors"]
    assert (error["field"], error["value"]) == ("files.train", [101, 102])
    assert error["remedy"]
    assert list(storage.keys("datasets")) == []
    assert list(own_settings.work_dir.iterdir()) == []


def test_a_reason_may_hold_any_character(api: TestClient, run_import: Callable[[str], None]) -> None:
    name = "te\0xt \ud800"
    row = json.dumps({name: "a", "label": "x"}).encode() + b"\n"
    made = upload(api, row + large()).json()
    run_import(made["id"])
    assert api.get(f"/v1/datasets/{made['id']}").json()["status"] == "refused"


def test_importing_twice_and_at_once_changes_nothing(
    api: TestClient, run_import: Callable[[str], None], storage: Storage
) -> None:
    made = upload(api, large(1000)).json()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run_import, [made["id"]] * 4))
    run_import(made["id"])
    assert api.get(f"/v1/datasets/{made['id']}").json()["status"] == "ready"
    assert len(list(storage.keys("datasets"))) == 1
    run_import("ds_00000000000000000000000000")  # gone: nothing to do


def test_a_file_damaged_in_storage_is_refused(
    api: TestClient, run_import: Callable[[str], None], own_settings: Settings
) -> None:
    made = upload(api, large()).json()
    stored = Path(own_settings.storage_url.removeprefix("file://"), f"datasets/{made['id']}/train.jsonl")
    stored.write_bytes(stored.read_bytes()[:-10])
    run_import(made["id"])
    answer = api.get(f"/v1/datasets/{made['id']}").json()
    assert answer["status"] == "refused"
    assert "damaged" in answer["refusal"]["detail"]
