"""Who gets in, and what the others learn."""

import httpx
import pytest
from sqlalchemy import select

from api.middleware import JSON_LIMIT
from core.accounts.models import ApiKey
from core.db import SessionFactory


def endpoints(document: dict) -> list[tuple[str, str]]:
    return [
        (method.upper(), path.replace("{path}", "config.json").replace("{", "").replace("}", ""))
        for path, operations in document["paths"].items()
        for method in operations
        if path.startswith("/v1/")
    ]


def test_no_route_answers_without_a_key(client_of):
    stranger = client_of(None)
    listed = endpoints(stranger.get("/openapi.json").json())
    assert len(listed) >= 13
    for method, path in listed:
        answer = stranger.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.json()["code"] == "unauthenticated"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Basic YWRhOmFkYQ==", "mixkd_0123", "Bearer mixkd_wrong", "Bearer ' OR 1=1 --"],
)
def test_a_wrong_key_is_refused(client_of, header):
    answer = client_of(None).get("/v1/jobs", headers={"Authorization": header})
    assert answer.status_code == 401
    assert "wrong" not in answer.text


def test_a_revoked_key_is_refused_at_once_and_revoking_again_changes_nothing(api):
    made = api.post("/v1/keys", json={"name": "laptop"}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert api.get("/v1/keys", headers=headers).status_code == 200
    assert api.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert api.get("/v1/keys", headers=headers).status_code == 401
    first = revoked_at(api, made["id"])
    assert first is not None
    assert api.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert revoked_at(api, made["id"]) == first


def revoked_at(api: httpx.Client, key_id: str) -> str | None:
    return next(key["revoked_at"] for key in api.get("/v1/keys").json()["items"] if key["id"] == key_id)


def test_a_key_is_shown_once_and_only_its_hash_is_stored(api, sessions: SessionFactory):
    made = api.post("/v1/keys", json={"name": "laptop"})
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    key = made.json()["key"]
    assert key.startswith("mixkd_")
    assert len(key) >= len("mixkd_") + 43  # 256 bits in base64
    assert key not in api.get("/v1/keys").text
    with sessions() as session:
        for row in session.scalars(select(ApiKey)):
            assert len(row.sha256) == 32
            assert key.encode() not in row.sha256


def test_another_owners_keys_are_out_of_sight_and_reach(api, client_of):
    bob = client_of("bob")
    made = api.post("/v1/keys", json={"name": "laptop"}).json()
    assert made["id"] not in bob.get("/v1/keys").text
    assert bob.delete(f"/v1/keys/{made['id']}").status_code == 404
    assert revoked_at(api, made["id"]) is None


def test_a_stranger_does_not_learn_whether_the_body_is_valid(client_of):
    stranger = client_of(None)
    broken = stranger.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    too_large = stranger.post("/v1/jobs", content=bytes(2 * JSON_LIMIT))
    assert broken.status_code == too_large.status_code == 401
