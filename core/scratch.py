"""Scratch folders, each held by a lock while its process lives, so that what the dead left can be told.

One per attempt of a job, one per import.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def scratch(root: Path, name: str) -> Iterator[Path]:
    """A new folder that only we may enter, removed at the end, whatever happens inside.

    Args:
        root: made when missing; it holds nothing but such folders.
    """
    folder = root / name
    with _held(root):  # a sweeper must not find it between its creation and its lock
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        # An abandoned transfer may still be writing into it: what is left then, the next sweep takes.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(root: Path) -> list[str]:
    """Remove the folders whose processes are gone; their names."""
    removed = []
    with _held(root):
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder.name)
            finally:
                os.close(lock)
    return removed


@contextmanager
def _held(root: Path) -> Iterator[None]:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
