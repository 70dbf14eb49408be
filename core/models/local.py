"""Models from a folder of this machine: `path:/folder`, under one of the configured roots."""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from mixkd.contract.folder import wanted
from mixkd.contract.problems import Problem, RefusedError

SCHEME = "path:"


def locate(source: str, roots: Sequence[Path]) -> Path:
    """The real folder that `path:/folder` names, symlinks resolved.

    Raises:
        RefusedError: it is not a folder under one of the roots. Whether it exists elsewhere is not told.
    """
    try:
        folder = Path(source.removeprefix(SCHEME))
        real = folder.resolve(strict=True)
        if folder.is_absolute() and real.is_dir() and _inside(real, roots):
            return real
    except (OSError, ValueError, RuntimeError):
        pass  # no such folder, NUL in the name, a loop of links: refused below like all others
    raise RefusedError(
        Problem(
            "source",
            "it is not a folder under one of the model roots of this service",
            source,
            "name a folder under a root (the operator sets MIXKD_MODEL_ROOTS), or upload the files",
        )
    )


def copy(folder: Path, roots: Sequence[Path], target: Path) -> None:
    """Copy the files that loading the model needs.

    The folder is not ours and may change under our hands: each file is judged by what was really opened.

    Raises:
        RefusedError: a file is gone, or is no plain file under the roots (any more).
    """
    for name in sorted(path.name for path in folder.iterdir() if wanted(path.name)):
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for ever.
            source = os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError:
            raise _changed(name) from None
        with source:
            opened = Path(f"/proc/self/fd/{source.fileno()}").readlink()
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode) or not _inside(opened, roots):
                raise _changed(name)
            with (target / name).open("xb") as copied:
                shutil.copyfileobj(source, copied, 1 << 20)


def _inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root.resolve()) for root in roots)


def _changed(name: str) -> RefusedError:
    return RefusedError(
        Problem(name, "it changed while it was being imported", None, "register the model again")
    )
