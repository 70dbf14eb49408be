"""A storage folder that is not mounted is away; it is not a folder whose files are gone."""

import shutil
from pathlib import Path

import pytest

from core.storage import Storage, digest, set_up


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "volumes" / "mixkd"
    set_up(f"file://{root}")
    return root


@pytest.fixture
def storage(root: Path) -> Storage:
    return Storage(f"file://{root}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("content")
    return path


def unmount(root: Path, *, leave: bool) -> None:
    shutil.rmtree(root)
    if leave:
        root.mkdir()


def test_a_new_one_takes_files(storage: Storage, file: Path, tmp_path: Path) -> None:
    storage.ping()
    stored = storage.put_file("a/b", file)
    storage.fetch("a/b", tmp_path / "back", stored)
    storage.delete(["a/b"])
    storage.ping()
    with pytest.raises(FileNotFoundError):
        storage.read("a/b")


@pytest.mark.parametrize("leave", [False, True], ids=["missing", "empty"])
def test_one_that_is_not_mounted_is_away(
    storage: Storage, root: Path, file: Path, tmp_path: Path, *, leave: bool
) -> None:
    storage.put_file("a/b", file)
    unmount(root, leave=leave)
    with pytest.raises(OSError, match="mounted"):
        storage.fetch("a/b", tmp_path / "back", digest(file))
    with pytest.raises(OSError, match="mounted"):
        storage.put_file("a/c", file)
    with pytest.raises(OSError, match="storage folder"):
        storage.ping()
    assert list(root.parent.rglob("*")) == ([root] if leave else [])


@pytest.mark.parametrize("leave", [False, True], ids=["missing", "empty"])
def test_nobody_makes_it_who_only_uses_it(root: Path, *, leave: bool) -> None:
    unmount(root, leave=leave)
    with pytest.raises(OSError, match="mounted"):
        Storage(f"file://{root}")
    assert root.exists() == leave
