"""What each process does before its work: it says in one line why it cannot start, and tidies up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.config import Settings

API, WORKER, SERVER = ["-m", "api"], ["-m", "worker"], ["-m", "core.cli"]


def run(command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one of our programs to its end."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIXKD_")}
    return subprocess.run(
        [sys.executable, "-P", *command],
        env=kept | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def said(result: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a process refused to start."""
    assert result.returncode == 1, result.stderr
    (line,) = (line for line in result.stderr.splitlines() if not line.startswith("{"))  # the log has braces
    return line


@pytest.mark.parametrize("command", [API, WORKER, [*WORKER, "--control"], [*SERVER, "migrate"]])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MIXKD_DATABASE_URL", "mysql://mixkd:s3cret@db/mixkd"),
        ("MIXKD_BROKER_URL", "amqp://mixkd:s3cret@broker"),
        ("MIXKD_LEASE_SECONDS", "s3cret"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(command: list[str], variable: str, value: str) -> None:
    line = said(run(command, **{variable: value}))
    assert variable in line
    assert "s3cret" not in line


@pytest.mark.parametrize("variable", ["MIXKD_DATABASE_URL", "MIXKD_BROKER_URL", "MIXKD_STORAGE_URL"])
def test_up_names_it_too_and_starts_nothing(tmp_path: Path, variable: str) -> None:
    up = [*SERVER, "up", "--port", "0", "--data-dir", str(tmp_path / "data")]
    assert variable in said(run(up, **{variable: "wrong://s3cret"}))
    assert not (tmp_path / "data").exists()


def test_up_refuses_a_model_root_that_cannot_be_handed_on(tmp_path: Path) -> None:
    up = [*SERVER, "up", "--port", "0", "--data-dir", str(tmp_path / "data")]
    assert "models:2024" in said(run([*up, "--model-root", str(tmp_path / "models:2024")]))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", [API, WORKER])
@pytest.mark.parametrize(
    ("variable", "value"), [("MIXKD_STORAGE_URL", "file:///proc/none"), ("MIXKD_WORK_DIR", "/proc/none")]
)
def test_a_folder_that_cannot_be_made_is_named(
    settings: Settings, command: list[str], variable: str, value: str
) -> None:
    found = {
        "MIXKD_DATABASE_URL": settings.database_url.get_secret_value(),
        "MIXKD_STORAGE_URL": settings.storage_url,
    }
    line = said(run(command, **found | {variable: value}))
    assert variable in line
    assert value.removeprefix("file://") in line


def test_a_database_url_with_an_unknown_option_is_refused(database_url: str) -> None:
    for command in (API, WORKER, [*SERVER, "migrate"]):
        assert "bogus" in said(run(command, MIXKD_DATABASE_URL=f"{database_url}&bogus=1"))


def test_the_api_removes_the_uploads_that_a_killed_one_left(settings: Settings, tmp_path: Path) -> None:
    left = tmp_path / "work" / "import-0123"
    left.mkdir(parents=True)
    (left / "train").write_text("half a data set")
    result = run(
        [*API, "--host", "256.0.0.1"],  # an address that it cannot listen on ends it
        MIXKD_DATABASE_URL=settings.database_url.get_secret_value(),
        MIXKD_STORAGE_URL=settings.storage_url,
        MIXKD_WORK_DIR=str(tmp_path / "work"),
    )
    assert result.returncode != 0
    assert not left.exists()
