"""`/v1/keys`: the keys of the owner who asks."""

from fastapi import APIRouter, Response

from api.deps import Principal, Session
from api.idempotency import IdempotencyKey, mark_replay
from api.schemas.common import Id
from api.schemas.keys import KeyCreate, KeyList, KeyView, NewKeyView
from core.accounts import idempotency, service
from core.ids import new_id

router = APIRouter(prefix="/keys", tags=["keys"])


@router.post("", status_code=201, summary="Make a key")
def create(
    body: KeyCreate,
    session: Session,
    principal: Principal,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> NewKeyView:
    """The key is shown once, in this answer; only its hash is kept."""
    key_id = new_id("key")
    request = idempotency.repeatable(
        principal.owner_id, idempotency_key, "keys", body.model_dump(mode="json")
    )
    response.headers["Cache-Control"] = "no-store"
    if earlier := idempotency.claim(session, request, key_id):
        mark_replay(response)
        key, plaintext = service.get_key(session, principal.owner_id, earlier), None
    else:
        key, plaintext = service.add_key(session, principal.owner_id, key_id, body.name)
    return NewKeyView(**KeyView.of(key).model_dump(), key=plaintext)


@router.get("", summary="List keys, newest first")
def list_keys(session: Session, principal: Principal) -> KeyList:
    """Without their secrets, which nobody has."""
    return KeyList(items=[KeyView.of(key) for key in service.list_keys(session, principal.owner_id)])


@router.delete("/{key_id}", status_code=204, summary="Revoke a key")
def revoke(key_id: Id, session: Session, principal: Principal) -> None:
    """It is refused from now on. Repeating this changes nothing."""
    service.revoke_key(session, principal.owner_id, key_id)
