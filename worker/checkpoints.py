"""Takes a trainer's checkpoints to storage while it trains, so that they outlive this machine.

A thread of its own waits for news of a checkpoint, links its files aside (the trainer removes old ones when
it likes), stores those that storage does not have yet, and then lets the job's row name them. An attempt that
is killed anywhere in between leaves rubbish, never half a checkpoint.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path, PurePath
from threading import Condition, Thread

from core.db import SessionFactory
from core.jobs import claims
from core.jobs.claims import CheckpointFile, Claim, LeaseLostError, StoredCheckpoint
from core.storage import CorruptFileError, Storage, StoredFile, digest
from mixkd.contract.messages import CheckpointWritten, Note
from mixkd.contract.work import RESOLVED, STEP, WORK, to_go_on
from worker.halt import Halt, Halted, Reason

RETRY_SECONDS = 5.0
TICK_SECONDS = 0.2
SNAPSHOT_TRIES = 5

log = logging.getLogger(__name__)


class Uploader:
    """The checkpoints of one attempt, from `start` to `finish`.

    Args:
        work: the trainer's folder of checkpoints.
        aside: a folder of ours on the same disk.
        halt: no upload begins once the lease may be lost.
        found: the checkpoint that was brought back; None: there was none.
    """

    def __init__(
        self,
        sessions: SessionFactory,
        storage: Storage,
        claim: Claim,
        *,
        work: Path,
        aside: Path,
        halt: Halt,
        found: StoredCheckpoint | None,
    ) -> None:
        self._sessions = sessions
        self._storage = storage
        self._claim = claim
        self._work = work
        self._aside = aside
        self._halt = halt
        # Of the others nobody knows whether they are whole: what is made again is stored again.
        self._known = {file.sha256: file for file in found.files.values()} if found else {}
        self._damaged = damaged(claim, found)
        self._digests: dict[tuple[int, int, int], StoredFile] = {}  # inode, size, time of change -> content
        self._news = Condition()
        self._latest: CheckpointWritten | None = None
        self._busy = False
        self._ended = False
        known_to_the_log = copy_context()  # the job and the attempt
        self._thread = Thread(target=known_to_the_log.run, args=[self._run], name="checkpoints", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def take(self, written: CheckpointWritten) -> None:
        """There is a new one. An earlier one that still waits is left out."""
        with self._news:
            self._latest = written
            self._news.notify_all()

    def finish(self, left: Callable[[], float]) -> None:
        """Wait until the last one is stored, as long as there are seconds `left`, and listen no more."""
        with self._news:
            while (self._latest is not None or self._busy) and left():
                self._news.wait(min(left(), TICK_SECONDS))
            self._ended = True
            self._news.notify_all()

    def _run(self) -> None:
        while (written := self._next()) is not None:
            try:
                self._store(written)
            except (LeaseLostError, Halted):
                return  # whoever has the job now has its own
            except Exception as error:  # whatever it is, training goes on, and the next one may succeed
                if self._ended:  # and the folder is gone
                    return
                log.warning("a checkpoint could not be stored: %s", error)
                self._try_again_later(written)
            finally:
                with self._news:
                    self._busy = False
                    self._news.notify_all()

    def _next(self) -> CheckpointWritten | None:
        with self._news:
            self._news.wait_for(lambda: self._latest is not None or self._ended)
            if self._ended:
                return None
            written, self._latest, self._busy = self._latest, None, True
            return written

    def _try_again_later(self, written: CheckpointWritten) -> None:
        with self._news:
            self._news.wait_for(lambda: self._latest is not None or self._ended, RETRY_SECONDS)
            self._latest = self._latest or written

    def _store(self, written: CheckpointWritten) -> None:
        try:
            files = {}
            for path in self._snapshot():
                self._check_lease()
                files[path.relative_to(self._aside).as_posix()] = self._stored(path)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)
        self._check_lease()
        step = _step_of(files) or written.step  # the trainer may be further than what was heard of it
        new = StoredCheckpoint(attempt=self._claim.fence, phase=written.phase, step=step, files=files)
        with self._sessions.begin() as session:
            kept = claims.keep_checkpoint(session, self._claim.token, new, self._damaged)
        log.info("checkpoint %s %d is stored", written.phase, step)
        self._remove_all_but(kept)

    def _check_lease(self) -> None:
        if self._halt.reason is Reason.LEASE_LOST:
            raise Halted(Reason.LEASE_LOST)

    def _snapshot(self) -> list[Path]:
        """What the newest checkpoints consist of, linked to where the trainer removes nothing."""
        for _ in range(SNAPSHOT_TRIES):
            shutil.rmtree(self._aside, ignore_errors=True)
            with suppress(FileNotFoundError):  # removed under our hands: there is a newer one
                return [self._link(path) for path in to_go_on(self._work)]
        raise OSError("checkpoints are removed faster than they can be linked")

    def _link(self, path: Path) -> Path:
        target = self._aside / path.relative_to(self._work)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == self._work:  # it may grow while it is stored
            shutil.copyfile(path, target)
        else:
            os.link(path, target)
        return target

    def _stored(self, path: Path) -> CheckpointFile:
        status = path.stat()
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        content = self._digests.get(identity) or digest(path)
        self._digests[identity] = content
        if content.sha256 not in self._known:
            key = f"{self._claim.prefix}/checkpoints/{content.sha256}"
            self._storage.put_file(key, path)
            self._known[content.sha256] = CheckpointFile(key=key, size=content.size, sha256=content.sha256)
        return self._known[content.sha256]

    def _remove_all_but(self, kept: list[StoredCheckpoint]) -> None:
        """Forget what no row names any more, and remove it where this attempt stored it.

        What earlier ones stored, the sweeper takes: it may be gone at any time, and must not be named again.
        """
        named = {file.key for one in kept for file in one.files.values()}
        ours = f"{self._claim.prefix}/"
        old = [file.key for file in self._known.values() if file.key not in named]
        self._known = {sha256: file for sha256, file in self._known.items() if file.key in named}
        self._storage.delete([key for key in old if key.startswith(ours)])


def _step_of(files: Iterable[str]) -> int | None:
    """The step of the training that is under way; None: all are finished."""
    folders = [PurePath(file).parent.name for file in files]
    return max((int(name.removeprefix(STEP)) for name in folders if name.startswith(STEP)), default=None)


def bring_back(
    storage: Storage, claim: Claim, run: Path, spec: Path, check: Callable[[], None]
) -> StoredCheckpoint | None:
    """Put the newest whole checkpoint of earlier attempts where a trainer goes on from it.

    Args:
        run: the trainer's folder.
        spec: the run's description, which the trainer is given.
        check: called between chunks; what it raises ends the copying.

    Returns:
        Which one that was; None: there is none.
    """
    work = run / WORK
    for checkpoint in claim.checkpoints:
        try:
            for path, file in checkpoint.files.items():
                storage.fetch(file.key, work / path, file.stored, check)
        except (CorruptFileError, FileNotFoundError) as error:
            log.warning("a stored checkpoint is not used: %s", error)
            shutil.rmtree(work, ignore_errors=True)
            continue
        shutil.copyfile(spec, work / RESOLVED)
        return checkpoint
    return None


def damaged(claim: Claim, found: StoredCheckpoint | None) -> Sequence[StoredCheckpoint]:
    """Those that `bring_back` tried in vain."""
    return claim.checkpoints if found is None else claim.checkpoints[: claim.checkpoints.index(found)]


def notes_on(found: StoredCheckpoint | None, claim: Claim) -> list[Note]:
    """What the user should know of where an attempt goes on."""
    if found is not None and found == claim.checkpoints[0]:
        return []
    if found is not None:
        return [Note(detail="the last checkpoint is damaged or gone: going on from the one before")]
    return [Note(detail="no checkpoint is whole: beginning anew")] if claim.checkpoints else []
