"""API keys on the wire."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.common import Name, Request
from core.accounts.models import ApiKey


class KeyCreate(Request):
    """A key to be made."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "laptop"}]})

    name: Name


class KeyView(BaseModel):
    """A key, without its secret."""

    model_config = ConfigDict(
        from_attributes=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "key_01k3v0ab3c5d7e9f1g3h5j7k9m",
                    "name": "laptop",
                    "created_at": "2025-06-01T12:00:00Z",
                    "revoked_at": None,
                }
            ]
        },
    )

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> "KeyView":
        """The key as its owner sees it."""
        return cls.model_validate(key)


class NewKeyView(KeyView):
    """A key that was just made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "key_01k3v0ab3c5d7e9f1g3h5j7k9m",
                    "name": "laptop",
                    "created_at": "2025-06-01T12:00:00Z",
                    "revoked_at": None,
                    "key": "mixkd_…",
                }
            ]
        },
    )

    key: str | None = Field(
        description="the key itself: shown this once. Null where the request was a repetition: nobody has it "
        "any more, so if the first answer was lost, revoke the key and make another"
    )


class KeyList(BaseModel):
    """All keys of an owner, newest first; there are few."""

    items: list[KeyView]
