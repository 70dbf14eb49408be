"""Making models: an upload is inspected while its sender waits, a reference fetched by the control worker."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session
from ulid import ULID

from core import imports
from core.accounts import idempotency
from core.accounts.idempotency import Repeatable
from core.config import Settings
from core.db import SessionFactory
from core.errors import Unavailable
from core.ids import new_id
from core.imports import ImportStatus
from core.models import hub, local, repository
from core.models.models import Model
from core.paging import Page
from core.storage import Storage, digest
from mixkd.contract.folder import inspect_folder, wanted
from mixkd.contract.problems import Problem, RefusedError

log = logging.getLogger(__name__)

HUB_PATIENCE = timedelta(hours=1)
"""How long a hub that does not answer is tried again before the model is refused."""


@dataclass(frozen=True)
class Made:
    """A model, and whether an earlier request with the same key made it."""

    model: Model
    repeated: bool


def register(
    session: Session,
    settings: Settings,
    *,
    owner_id: str,
    name: str,
    source: str,
    idempotency_key: str | None = None,
) -> Made:
    """A teacher by reference, `importing`. The caller sends the hint once this has committed.

    A folder is inspected here and now; a hub is not asked.

    Raises:
        RefusedError: the reference, or the folder that it names, cannot be used.
        Conflict: the idempotency key was used for something else.
    """
    request = idempotency.repeatable(owner_id, idempotency_key, "models", {"name": name, "source": source})
    if earlier := idempotency.find(session, request):
        return Made(repository.get(session, owner_id, earlier), repeated=True)
    if source.startswith(hub.SCHEME):
        source = str(hub.parse(source))
    elif source.startswith(local.SCHEME):
        folder = local.locate(source, settings.model_roots)
        with _under("source"):
            inspect_folder(folder)
    else:
        raise RefusedError(
            Problem(
                "source",
                "it is neither a model on the hub nor a folder of this service",
                source,
                "write hf://organisation/name@revision or path:/folder",
            )
        )
    model_id = new_id("mdl")
    if earlier := idempotency.claim(session, request, model_id):
        return Made(repository.get(session, owner_id, earlier), repeated=True)
    model = _teacher(model_id, owner_id, name, source)
    session.add(model)
    session.flush()
    return Made(model, repeated=False)


def upload(
    sessions: SessionFactory,
    storage: Storage,
    *,
    owner_id: str,
    name: str,
    folder: Path,
    idempotency_key: str | None = None,
) -> Made:
    """A teacher from the files in a folder of the request. Files that loading it does not need are dropped.

    The transaction is this function's own: none is open while files are stored, and what was stored is
    removed if the transaction fails.

    Raises:
        RefusedError: the files are not a model that can be used; nothing is kept of them.
        Conflict: the idempotency key was used for something else.
    """
    request = _upload_request(owner_id, idempotency_key, name, folder)
    with sessions() as session:
        if earlier := idempotency.find(session, request):
            return Made(repository.get(session, owner_id, earlier), repeated=True)
    with _under("files"):
        info = inspect_folder(folder).model_dump(mode="json")
    model = _teacher(new_id("mdl"), owner_id, name, "upload:")
    model.status = ImportStatus.READY
    model.info = info
    with imports.undone_unless(lambda s: s.get(Model, model.id) is not None, sessions, storage, model.prefix):
        model.files = _store(storage, folder, model.prefix)
        with sessions() as session:
            made_before = idempotency.claim(session, request, model.id)
            if made_before is None:
                session.add(model)
                session.commit()
                return Made(model, repeated=False)
            earlier_one = repository.get(session, owner_id, made_before)
    storage.delete_prefix(model.prefix)
    return Made(earlier_one, repeated=True)


def get(session: Session, owner_id: str, model_id: str) -> Model:
    """One model.

    Raises:
        NotFound: there is none of that id, or it is another owner's.
    """
    return repository.get(session, owner_id, model_id)


def page(session: Session, owner_id: str, *, limit: int, cursor: str | None) -> Page[Model]:
    """Models, newest first, students among them."""
    return repository.page(session, owner_id, limit, cursor)


def ready(session: Session, owner_id: str, *, most: int) -> Sequence[Model]:
    """Models that are ready: teachers first, then the newest first."""
    return repository.ready(session, owner_id, most)


def importing(session: Session) -> Sequence[str]:
    """The ids of all models whose import is not decided, for the reconciler to send again."""
    return repository.importing(session)


def run_import(sessions: SessionFactory, storage: Storage, settings: Settings, model_id: str) -> None:
    """Fetch a registered teacher and decide it. Running it twice, also at once, changes nothing.

    Raises:
        Unavailable: the hub did not answer; the model stays `importing`, to be tried again.
        Exception: storage or database failed; likewise.
    """
    with imports.sole_importer(sessions, model_id) as sole:
        with sessions() as session:
            model = session.get(Model, model_id)
        if not sole or model is None or model.source is None or model.status != ImportStatus.IMPORTING:
            return
        with imports.scratch(settings) as folder:
            try:
                with _under("source"):
                    source = _fetch(settings, model.source, folder)
                    info = inspect_folder(folder).model_dump(mode="json")
            except RefusedError as refused:
                _refuse(sessions, storage, model_id, refused)
            except Unavailable as error:
                with sessions() as session:
                    if not repository.waits_since(session, model_id, HUB_PATIENCE):
                        raise
                _refuse(sessions, storage, model_id, _gave_up(model.source, error))
            else:
                _keep(sessions, storage, model_id, folder=folder, source=source, info=info)


def _fetch(settings: Settings, source: str, folder: Path) -> str:
    """Bring a model's files into a folder; the source as it is recorded."""
    if source.startswith(hub.SCHEME):
        return str(hub.download(hub.parse(source), folder, settings))
    local.copy(local.locate(source, settings.model_roots), settings.model_roots, folder)
    return source


def _keep(
    sessions: SessionFactory,
    storage: Storage,
    model_id: str,
    *,
    folder: Path,
    source: str,
    info: dict[str, Any],
) -> None:
    """Store the files under a prefix of this try, and make them count if no other try was faster."""
    prefix = f"{_prefix(model_id)}/{str(ULID()).lower()}"

    def is_ours(session: Session) -> bool:
        model = session.get(Model, model_id)
        return model is not None and model.prefix == prefix

    with imports.undone_unless(is_ours, sessions, storage, prefix):
        files = _store(storage, folder, prefix)
        with sessions() as session:
            won = repository.settle(
                session,
                model_id,
                status=ImportStatus.READY,
                prefix=prefix,
                files=files,
                info=info,
                source=source,
            )
            session.commit()
    if not won:
        storage.delete_prefix(prefix)
        return
    log.info("model %s is ready", model_id)
    for leftover in {key.split("/")[2] for key in storage.keys(_prefix(model_id))} - {prefix.split("/")[2]}:
        storage.delete_prefix(f"{_prefix(model_id)}/{leftover}")  # of a try that died


def _refuse(sessions: SessionFactory, storage: Storage, model_id: str, refused: RefusedError) -> None:
    with sessions() as session:
        decided = repository.settle(
            session, model_id, status=ImportStatus.REFUSED, refusal=imports.refusal(refused)
        )
        session.commit()
    if decided:
        storage.delete_prefix(_prefix(model_id))
        log.info("model %s is refused: %s", model_id, refused)


def _gave_up(source: str, error: Unavailable) -> RefusedError:
    return RefusedError(
        Problem(
            "source",
            f"{error.detail}; it was tried for {int(HUB_PATIENCE.total_seconds() // 60)} minutes",
            source,
            "register the model again once this service can reach the hub, or upload its files",
        )
    )


def _teacher(model_id: str, owner_id: str, name: str, source: str) -> Model:
    return Model(
        id=model_id,
        owner_id=owner_id,
        name=name,
        kind="teacher",
        source=source,
        status=ImportStatus.IMPORTING,
        prefix=_prefix(model_id),
    )


@contextmanager
def _under(field: str) -> Iterator[None]:
    """Name the problems of a folder as the request's field, and those of a file in it `field.file`."""
    try:
        yield
    except RefusedError as refused:
        raise RefusedError(
            *(
                replace(p, field=field if p.field in {"folder", field} else f"{field}.{p.field}")
                for p in refused.problems
            )
        ) from refused


def _store(storage: Storage, folder: Path, prefix: str) -> dict[str, Any]:
    names = sorted(path.name for path in folder.iterdir() if wanted(path.name))
    return {name: asdict(storage.put_file(f"{prefix}/{name}", folder / name)) for name in names}


def _upload_request(owner_id: str, key: str | None, name: str, folder: Path) -> Repeatable | None:
    if key is None:
        return None  # spares reading every file once more
    files = {path.name: digest(path).sha256 for path in folder.iterdir()}
    return idempotency.repeatable(owner_id, key, "models", {"name": name, "files": files})


def _prefix(model_id: str) -> str:
    return f"models/{model_id}"
