"""Making data sets: a small one is checked while its sender waits, a large one by the control worker."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy.orm import Session

from core import imports
from core.accounts import idempotency
from core.config import Settings
from core.datasets import repository
from core.datasets.models import Dataset
from core.db import SessionFactory
from core.ids import new_id
from core.imports import ImportStatus
from core.paging import Page
from core.storage import CorruptFileError, Storage, StoredFile, digest
from mixkd.contract.data_spec import DataSpec, Reading, Split
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import DatasetReport, check_dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """What a user sent; the files lie in a folder of the request."""

    name: str
    reading: Reading
    files: Mapping[Split, Path]


@dataclass(frozen=True)
class Made:
    """A data set, and whether an earlier request with the same key made it."""

    dataset: Dataset
    repeated: bool


def create(
    sessions: SessionFactory,
    storage: Storage,
    settings: Settings,
    *,
    owner_id: str,
    upload: Upload,
    idempotency_key: str | None = None,
) -> Made:
    """Store a data set. It is `ready` if it is small, otherwise `importing`.

    The transaction is this function's own: none is open while files are checked and stored, and what was
    stored is removed if the transaction fails.

    Raises:
        RefusedError: a small one that cannot be used; nothing is kept of it.
        Conflict: the idempotency key was used for something else.
    """
    digests = {split: digest(path) for split, path in upload.files.items()}
    request = idempotency.repeatable(owner_id, idempotency_key, "datasets", _asked_for(upload, digests))
    with sessions() as session:
        if earlier := idempotency.find(session, request):
            return Made(repository.get(session, owner_id, earlier), repeated=True)

    dataset = Dataset(
        id=new_id("ds"),
        owner_id=owner_id,
        name=upload.name,
        status=ImportStatus.IMPORTING,
        format=upload.reading.format,
        columns=upload.reading.columns.model_dump(),
        reading=_further(upload.reading),
        files={},
    )
    if sum(file.size for file in digests.values()) <= settings.inline_import_bytes:
        report = check_dataset(_described(upload.reading, upload.files))
        dataset.status = ImportStatus.READY
        dataset.report = report.model_dump(mode="json")
        dataset.fingerprint = fingerprint(upload.reading, digests)

    prefix = _prefix(dataset.id)
    with imports.undone_unless(lambda s: s.get(Dataset, dataset.id) is not None, sessions, storage, prefix):
        dataset.files = {
            split: {"path": name, **asdict(storage.put_file(f"{prefix}/{name}", path))}
            for split, path in upload.files.items()
            for name in [f"{split}.{upload.reading.format}"]
        }
        with sessions() as session:
            made_before = idempotency.claim(session, request, dataset.id)
            if made_before is None:
                session.add(dataset)
                session.commit()
                return Made(dataset, repeated=False)
            earlier_one = repository.get(session, owner_id, made_before)
    storage.delete_prefix(prefix)
    return Made(earlier_one, repeated=True)


def get(session: Session, owner_id: str, dataset_id: str) -> Dataset:
    """One data set.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    return repository.get(session, owner_id, dataset_id)


def page(session: Session, owner_id: str, *, limit: int, cursor: str | None) -> Page[Dataset]:
    """Data sets, newest first."""
    return repository.page(session, owner_id, limit, cursor)


def ready(session: Session, owner_id: str, *, most: int) -> Sequence[Dataset]:
    """Data sets that are ready, newest first."""
    return repository.ready(session, owner_id, most)


def importing(session: Session) -> Sequence[str]:
    """The ids of all data sets whose import is not decided, for the reconciler to send again."""
    return repository.importing(session)


def run_import(sessions: SessionFactory, storage: Storage, settings: Settings, dataset_id: str) -> None:
    """Check a stored data set and decide it. Running it twice, also at once, changes nothing.

    Raises:
        Exception: storage or database failed; the data set stays `importing`, to be tried again.
    """
    with imports.sole_importer(sessions, dataset_id) as sole:
        with sessions() as session:
            dataset = session.get(Dataset, dataset_id)
        if not sole or dataset is None or dataset.status != ImportStatus.IMPORTING:
            return
        with imports.scratch(settings) as folder:
            try:
                report = _check_stored(storage, dataset, folder)
            except RefusedError as refused:
                _refuse(sessions, storage, dataset_id, refused)
                return
    with sessions() as session:
        repository.settle(
            session,
            dataset_id,
            status=ImportStatus.READY,
            report=report.model_dump(mode="json"),
            fingerprint=fingerprint(dataset.read_as, _manifest(dataset)),
        )
        session.commit()
    log.info("data set %s is ready", dataset_id)


def _check_stored(storage: Storage, dataset: Dataset, folder: Path) -> DatasetReport:
    paths: dict[Split, Path] = {}
    for split, promised in _manifest(dataset).items():
        paths[split] = folder / split
        try:
            storage.fetch(f"{_prefix(dataset.id)}/{dataset.files[split]['path']}", paths[split], promised)
        except (CorruptFileError, FileNotFoundError) as error:
            log.exception("data set %s was damaged in storage", dataset.id)
            raise RefusedError(
                Problem(f"files.{split}", "it was damaged while it waited", None, "send it again")
            ) from error
    return check_dataset(_described(dataset.read_as, paths))


def _refuse(sessions: SessionFactory, storage: Storage, dataset_id: str, refused: RefusedError) -> None:
    with sessions() as session:
        decided = repository.settle(
            session, dataset_id, status=ImportStatus.REFUSED, refusal=imports.refusal(refused), files={}
        )
        session.commit()
    if decided:
        storage.delete_prefix(_prefix(dataset_id))
        log.info("data set %s is refused: %s", dataset_id, refused)


def _described(reading: Reading, files: Mapping[Split, Path]) -> DataSpec:
    return DataSpec.model_validate({**reading.model_dump(), "files": files})


def _further(reading: Reading) -> dict[str, Any]:
    """What is not said by format and columns, and is not the default."""
    return reading.model_dump(mode="json", exclude={"format", "columns"}, exclude_defaults=True)


def fingerprint(reading: Reading, files: Mapping[Split, StoredFile]) -> str:
    """SHA-256, in hex, of what decides the rows: how the files are read, and each file's SHA-256."""
    content = {
        **_further(reading),
        "format": reading.format,
        "columns": reading.columns.model_dump(),
        "files": {split: file.sha256 for split, file in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _asked_for(upload: Upload, digests: Mapping[Split, StoredFile]) -> object:
    return {"name": upload.name, "is": fingerprint(upload.reading, digests)}


def _manifest(dataset: Dataset) -> dict[Split, StoredFile]:
    return {
        cast("Split", split): StoredFile(size=file["size"], sha256=file["sha256"])
        for split, file in dataset.files.items()
    }


def _prefix(dataset_id: str) -> str:
    return f"datasets/{dataset_id}"
