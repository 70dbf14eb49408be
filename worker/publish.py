"""Takes a student from the trainer's folder to storage, under a prefix that no other attempt uses."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.storage import Storage, StoredFile
from mixkd.contract.folder import ModelInfo, inspect_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Student:
    """What a successful job records: the manifest, what the model is, the report card."""

    files: dict[str, StoredFile]
    info: ModelInfo
    report: dict[str, Any]


def publish(storage: Storage, prefix: str, run: Path, check: Callable[[], None]) -> Student:
    """Store a finished run's student under `PREFIX/student/`, its report and, last, the manifest.

    Nothing counts until the job's row says so. If anything goes wrong, what was stored is removed again,
    as far as possible.

    Args:
        run: the trainer's folder, with `student/` and `report.json`.
        check: called before each file; what it raises ends the publishing.

    Raises:
        RefusedError: the student's folder is not one that we would accept ourselves.
        ValueError: the report is not JSON that a database takes (NaN is not).
    """
    folder = run / "student"
    info = inspect_folder(folder)
    report = json.loads((run / "report.json").read_text(), parse_constant=_refuse_constant)
    files = {}
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            check()
            name = path.relative_to(folder).as_posix()
            files[name] = storage.put_file(f"{prefix}/student/{name}", path)
        manifest = run / "manifest.json"
        manifest.write_text(json.dumps({name: asdict(file) for name, file in files.items()}, indent=2))
        check()
        storage.put_file(f"{prefix}/report.json", run / "report.json")
        storage.put_file(f"{prefix}/manifest.json", manifest)
        check()
    except BaseException:
        withdraw(storage, prefix)
        raise
    return Student(files, info, report)


def withdraw(storage: Storage, prefix: str) -> None:
    """Remove what an attempt published in vain, not its checkpoints: the next one may go on from them.

    A failure only leaves rubbish that nobody refers to, until the sweeper comes.
    """
    try:
        storage.delete([f"{prefix}/manifest.json", f"{prefix}/report.json"])
        storage.delete_prefix(f"{prefix}/student")
    except Exception as error:
        log.warning("could not remove %s: %s", prefix, error)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the report holds {name}")
