"""Settings, read from the environment (`MIXKD_…`) once, by whoever starts a process."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Every setting of the service, with its default.

    `mixkd-server up` fills in the database, broker and storage by itself; a cluster sets them.
    """

    model_config = SettingsConfigDict(env_prefix="MIXKD_", frozen=True)

    database_url: SecretStr = Field(
        SecretStr("postgresql+psycopg:///mixkd"),
        description="SQLAlchemy URL of the Postgres database",
    )
    broker_url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        description="Valkey or Redis, used as Celery's broker",
    )
    storage_url: str = Field(
        "file:///var/lib/mixkd/storage",
        description="where data sets, models and students lie: file://, s3://, gs:// or az://",
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="folders that a model may be registered from by path, separated by ':'"
    )
    hub_url: str = Field(
        "https://huggingface.co", description="the model hub that hf:// references are fetched from"
    )
    hub_token: SecretStr | None = Field(None, description="sent to the hub, for private models")
    work_dir: Path = Field(
        Path("/var/tmp/mixkd"),  # noqa: S108 - each attempt makes its own 0700 folder in it
        description="scratch space: of a worker's attempts, the API's uploads and the control worker's imports",
    )

    max_upload_bytes: int = Field(10 * 2**30, gt=0, description="largest body of one request")
    inline_import_bytes: int = Field(
        32 * 2**20,
        ge=0,
        description="data sets up to this size are checked while the request waits; "
        "larger ones are imported by the control worker",
    )

    lease_seconds: float = Field(30, gt=0, description="how long a worker owns a job unrenewed")
    heartbeat_seconds: float = Field(3, gt=0, description="how often it renews")
    cancel_grace_seconds: float = Field(
        5, ge=0, description="between SIGTERM and SIGKILL for a cancelled trainer"
    )
    reconcile_seconds: float = Field(30, gt=0, description="how often expired leases are looked for")
    max_attempts: int = Field(3, ge=1, description="charged failures before a job fails for good")

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return [part for part in value.split(":") if part] if isinstance(value, str) else value
