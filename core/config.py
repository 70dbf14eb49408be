"""Settings, read from the environment (`MIXKD_…`) once, by whoever starts a process."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from core.errors import InvalidInput
from mixkd.contract.problems import Problem


def _url(is_one: Callable[[str], bool], remedy: str) -> AfterValidator:
    """Refuses a URL that cannot work, without repeating it: it may hold a password."""

    def check(value: Any) -> Any:
        try:
            good = is_one(value.get_secret_value() if isinstance(value, SecretStr) else value)
        except (ArgumentError, ValueError):
            good = False
        if not good:
            raise PydanticCustomError("url", "this URL cannot be used; write {remedy}", {"remedy": remedy})
        return value

    return AfterValidator(check)


def _of_postgres(url: str) -> bool:
    return make_url(url).drivername == "postgresql+psycopg"


def _of_a_broker(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        return bool(parts.path)
    _ = parts.port  # raises if it is no number
    return parts.scheme in ("redis", "rediss") and re.fullmatch(r"/?\d*", parts.path) is not None


def _of_storage(url: str) -> bool:
    return re.match(r"file:///|(s3|gs|az)://[^/]", url) is not None


_DatabaseUrl = Annotated[
    SecretStr, _url(_of_postgres, "postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE")
]
_BrokerUrl = Annotated[
    SecretStr,
    _url(_of_a_broker, "redis://HOST:PORT/NUMBER, rediss://HOST:PORT/NUMBER or redis+socket:///PATH"),
]
_StorageUrl = Annotated[
    str, _url(_of_storage, "file:///FOLDER, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")
]


class Settings(BaseSettings):
    """Every setting of the service, with its default.

    `mixkd-server up` fills in the database, broker and storage by itself; a cluster sets them.
    """

    model_config = SettingsConfigDict(env_prefix="MIXKD_", frozen=True, hide_input_in_errors=True)

    database_url: _DatabaseUrl = Field(
        SecretStr("postgresql+psycopg:///mixkd"),
        description="SQLAlchemy URL of the Postgres database",
    )
    broker_url: _BrokerUrl = Field(
        SecretStr("redis://localhost:6379/0"),
        description="Valkey or Redis, used as Celery's broker",
    )
    storage_url: _StorageUrl = Field(
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
        description="scratch space of a worker's attempts, the API's uploads and control's imports",
    )

    session_secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="signs the dashboard's session cookies: at least 32 characters, the same for every API "
        "process; without it nobody can sign in to the dashboard",
    )
    session_days: float = Field(7, gt=0, description="how long a sign-in to the dashboard lasts")

    max_upload_bytes: int = Field(10 * 2**30, gt=0, description="largest body of one request")
    inline_import_bytes: int = Field(
        32 * 2**20,
        ge=0,
        description="data sets up to this size are checked while the request waits; "
        "larger ones are imported by the control worker",
    )

    lease_seconds: float = Field(30, gt=0, description="how long a worker owns a job unrenewed")
    heartbeat_seconds: float = Field(
        3, gt=0, validate_default=True, description="how often it renews; at most half of the lease"
    )
    cancel_grace_seconds: float = Field(
        5, ge=0, description="between SIGTERM and SIGKILL for a cancelled trainer"
    )
    shutdown_grace_seconds: float = Field(
        25,
        ge=1,
        description="how long a worker that is told to stop may take for its trainer's last checkpoint, "
        "and for handing the job back",
    )
    retry_seconds: float = Field(
        10, ge=0, description="before a job that crashed is tried again; twice that after a second crash"
    )
    silence_seconds: float = Field(
        1800, gt=0, description="a trainer that says nothing for so long hangs, and is ended"
    )
    storage_patience_seconds: float = Field(
        300, ge=0, description="how long a worker tries again while the storage does not answer"
    )
    max_running_per_owner: int | None = Field(
        None,
        ge=0,
        description="jobs that one owner may run at a time; `mixkd-server limit` sets it for one owner",
    )
    keep_checkpoints_days: float = Field(
        7, ge=0, description="how long a job that failed or was cancelled can be retried from its checkpoints"
    )
    sweep_seconds: float = Field(
        3600, gt=0, description="how often files are removed from storage that no row names"
    )
    reconcile_seconds: float = Field(30, gt=0, description="how often expired leases are looked for")
    max_attempts: int = Field(3, ge=1, description="charged failures before a job fails for good")

    @field_validator("heartbeat_seconds")
    @classmethod
    def _renews_in_time(cls, value: float, info: ValidationInfo) -> float:
        if value * 2 > info.data.get("lease_seconds", value * 2):
            raise PydanticCustomError(
                "lease", "a lease must outlast two heartbeats; make MIXKD_LEASE_SECONDS at least twice this"
            )
        return value

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return [part for part in value.split(":") if part] if isinstance(value, str) else value


def load(**given: Any) -> Settings:
    """Read the settings; what is given takes precedence over the environment.

    Raises:
        InvalidInput: names each variable that is wrong, without its value, which may be secret.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = [
            Problem(f"MIXKD_{'_'.join(map(str, found['loc']))}".upper(), found["msg"])
            for found in error.errors()
        ]
        raise InvalidInput("; ".join(f"{p.field}: {p.problem}" for p in problems), *problems) from None
