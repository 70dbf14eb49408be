"""Requests that register models, and what is read out of their answers."""

from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient

Answer = httpx.Response
KEPT = ["config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]


def upload(api: TestClient, folder: Path, key: str | None = None, name: str = "tiny") -> Answer:
    files = [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]
    headers = {"Idempotency-Key": key} if key else {}
    return api.post("/v1/models/upload", data={"name": name}, files=files, headers=headers)


def register(api: TestClient, source: str, key: str | None = None) -> Answer:
    headers = {"Idempotency-Key": key} if key else {}
    return api.post("/v1/models", json={"name": "tiny", "source": source}, headers=headers)


def problem(answer: Answer) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["remedy"]
    return error


def refused(api: TestClient, model_id: str) -> dict[str, Any]:
    """The one problem in a refused model's reason."""
    model = api.get(f"/v1/models/{model_id}").json()
    assert (model["status"], model["info"], model["files"]) == ("refused", None, [])
    assert (model["refusal"]["status"], model["refusal"]["code"]) == (422, "invalid_input")
    (error,) = model["refusal"]["errors"]
    assert error["remedy"]
    return error
