"""Settings: what is accepted, and how what is wrong is refused without being repeated."""

import pytest

from core.config import load
from core.errors import InvalidInput

DATABASE, BROKER, STORAGE = "MIXKD_DATABASE_URL", "MIXKD_BROKER_URL", "MIXKD_STORAGE_URL"


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        (DATABASE, "s3cret", "write postgresql+psycopg://"),
        (DATABASE, "", "write postgresql+psycopg://"),
        (DATABASE, "mysql://mixkd:s3cret@db/mixkd", "write postgresql+psycopg://"),
        (DATABASE, "postgresql+asyncpg://mixkd:s3cret@db/mixkd", "write postgresql+psycopg://"),
        (DATABASE, "postgresql+psycopg://mixkd:s3cret@db:port/mixkd", "write postgresql+psycopg://"),
        (BROKER, "s3cret", "redis+socket:///PATH"),
        (BROKER, "amqp://mixkd:s3cret@broker", "write redis://"),
        (BROKER, "redis://:s3cret@broker:port/0", "write redis://"),
        (BROKER, "redis://:s3cret@broker/first", "write redis://"),
        (BROKER, "redis+socket://", "redis+socket:///PATH"),
        (STORAGE, "/var/lib/s3cret", "write file:///"),
        (STORAGE, "file://s3cret", "write file:///"),
        (STORAGE, "s3://", "s3://BUCKET"),
        ("MIXKD_LEASE_SECONDS", "s3cret", "number"),
        ("MIXKD_MAX_ATTEMPTS", "0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_and_never_repeated(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidInput) as refusal:
        load()
    assert variable in str(refusal.value)
    assert remedy in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_lease_that_no_heartbeat_can_keep_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXKD_LEASE_SECONDS", "5")
    with pytest.raises(InvalidInput, match="MIXKD_HEARTBEAT_SECONDS"):
        load()
    monkeypatch.setenv("MIXKD_HEARTBEAT_SECONDS", "2.5")
    load()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (DATABASE, "postgresql+psycopg://mixkd:a%5Bb@db.internal:5432/mixkd?sslmode=require"),
        (DATABASE, "postgresql+psycopg://mixkd@/mixkd?host=/run/a b"),
        (BROKER, "redis://:p%40ss@valkey.internal:6379/0"),
        (BROKER, "rediss://valkey.internal"),
        (BROKER, "redis+socket:///run/valkey/valkey.sock"),
        (STORAGE, "file:///var/lib/mixkd"),
        (STORAGE, "az://container/prefix"),
    ],
)
def test_every_kind_of_url_that_works_is_accepted(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    load()


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (DATABASE, BROKER, STORAGE):
        monkeypatch.setenv(variable, "wrong")
    with pytest.raises(InvalidInput) as refusal:
        load()
    assert {problem.field for problem in refusal.value.problems} == {DATABASE, BROKER, STORAGE}
