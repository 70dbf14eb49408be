"""Runs jobs, one at a time: claim, fetch, run the trainer, publish, and again until nothing is queued."""

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Lock
from uuid import uuid4

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from core.db import SessionFactory
from core.jobs import claims
from core.jobs.claims import CancelledError, Claim, Failure, LeaseLostError
from core.jobs.states import FailureCause
from core.log import bound
from core.queue import Queue
from core.scratch import scratch
from core.storage import CorruptFileError, Storage
from mixkd.contract.messages import PhaseStarted
from mixkd.contract.problems import RefusedError
from worker.fetch import fetch
from worker.halt import Halt, Halted, Reason, boot_seconds, interruptible
from worker.heart import Heart
from worker.publish import Student, publish, withdraw
from worker.record import Recorder
from worker.trainer_process import TRAINER, failure, run_trainer

SHUTDOWN_GRACE_SECONDS = 2.0
RETRY_SECONDS = 0.5
CLAIM_TRIES = 3

log = logging.getLogger(__name__)

Ending = Callable[[Session], object]


class AttemptFailed(Exception):
    """The attempt is over, for a known reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class Supervisor:
    """One worker's way through the queue.

    Args:
        worker_id: as it is registered.
        work_dir: where each attempt gets a folder.
        lease_seconds: for how long a claim holds unrenewed; `heart` renews it.
        cancel_grace_seconds: how long a trainer may take to stop when its job is cancelled.
        trainer: the program to start, see `run_trainer`.
    """

    def __init__(
        self,
        sessions: SessionFactory,
        storage: Storage,
        queue: Queue,
        heart: Heart,
        *,
        worker_id: str,
        work_dir: Path,
        lease_seconds: float,
        cancel_grace_seconds: float,
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        self._sessions = sessions
        self._storage = storage
        self._queue = queue
        self._heart = heart
        self._worker_id = worker_id
        self._work_dir = work_dir
        self._lease_seconds = lease_seconds
        self._grace = {Reason.CANCEL: cancel_grace_seconds, Reason.SHUTDOWN: SHUTDOWN_GRACE_SECONDS}
        self._trainer = tuple(trainer)
        self._working = Lock()
        self._stopping = Event()
        self._halt: Halt | None = None

    def work(self) -> None:
        """Run jobs until none is queued. Does nothing if it is at it already."""
        if not self._working.acquire(blocking=False):
            return
        try:
            while not self._stopping.is_set() and self._run_one():
                pass
        finally:
            self._working.release()

    def stop(self) -> None:
        """Claim no more, stop the trainer, hand the present job back. A signal handler may call it."""
        self._stopping.set()
        if (halt := self._halt) is not None:
            halt.ask(Reason.SHUTDOWN)

    def _run_one(self) -> bool:
        """Claim and run one job; whether there was one."""
        asked_at = boot_seconds()
        try:
            claim = self._claim()
        except DBAPIError as error:  # the reconciler wakes us again
            log.warning("could not claim: %s", error)
            return False
        if claim is None:
            return False
        halt = self._halt = Halt(self._heart.lease_end(asked_at))
        if self._stopping.is_set():  # it was set before `stop` could see this halt
            halt.ask(Reason.SHUTDOWN)
        with bound(job_id=claim.job_id, attempt=claim.fence), self._heart.holding(claim.token, halt):
            try:
                log.info("the attempt begins")
                self._attempt(claim, halt)
            except (LeaseLostError, Halted):
                log.warning("the attempt lost its lease")
            finally:
                self._halt = None
        return True

    def _claim(self) -> Claim | None:
        """Claim with one token, so that a claim whose answer was lost is found and not made twice."""
        token = uuid4()
        for tries_left in reversed(range(CLAIM_TRIES)):
            try:
                with self._sessions.begin() as session:
                    return claims.claim(session, self._worker_id, token, self._lease_seconds)
            except DBAPIError:
                if not tries_left:
                    raise
                time.sleep(RETRY_SECONDS)
        return None

    def _attempt(self, claim: Claim, halt: Halt) -> None:
        """Run a claimed job and commit how it ended.

        Raises:
            Halted, LeaseLostError: the job is, or may be, somebody else's; nothing was committed.
        """
        try:
            with scratch(self._work_dir, f"{claim.job_id}-{claim.fence}") as folder:
                recorder = Recorder(self._sessions, claim.token)
                student = self._produce(claim, folder, recorder, halt)
                self._commit_student(claim, student, recorder, halt)
            log.info("the job succeeded")
        except LeaseLostError:
            raise
        except Exception as error:
            if isinstance(error, Halted) and error.reason is Reason.LEASE_LOST:
                raise
            expected = isinstance(error, Halted | CancelledError | AttemptFailed)
            log.warning("the attempt ends: %s", error, exc_info=not expected)
            self._commit(halt, _ending(claim, error))
        if self._stopping.is_set():
            self._queue.wake()  # a job handed back should not wait for the reconciler

    def _produce(self, claim: Claim, folder: Path, recorder: Recorder, halt: Halt) -> Student:
        """Everything between the claim and the final commit; the student lies in storage."""
        recorder.take(PhaseStarted(phase="prepare"))  # fetching is part of it; the trainer goes on with it
        spec = interruptible(halt, lambda: fetch(self._storage, claim, folder, halt.check))
        run = folder / "run"
        end = run_trainer(self._trainer, spec, run, halt, recorder.take, grace=self._grace)
        recorder.flush()
        halt.check()
        if end.failed is not None or not end.done:
            raise AttemptFailed(failure(end))
        recorder.take(PhaseStarted(phase="publish"))
        return interruptible(halt, lambda: publish(self._storage, claim.prefix, run, halt.check))

    def _commit_student(self, claim: Claim, student: Student, recorder: Recorder, halt: Halt) -> None:
        """Make the student count. Where it is not known whether it does, its files stay: an orphan costs
        space, a row without its files costs trust."""
        info, report = student.info.model_dump(mode="json"), student.report
        try:
            recorder.flush()
            self._commit(
                halt, lambda session: claims.succeed(session, claim.token, student.files, info, report)
            )
        except (LeaseLostError, CancelledError):
            withdraw(self._storage, claim.prefix)
            raise

    def _commit(self, halt: Halt, ending: Ending) -> None:
        """Commit, again and again through an outage of the database while the lease may be ours.

        Raises:
            LeaseLostError: it is ours no longer, and nothing was committed.
            Halted: the lease ran out meanwhile; it is not known whether something was committed.
        """
        while True:
            try:
                with self._sessions.begin() as session:
                    ending(session)
                return
            except (OperationalError, InterfaceError) as error:
                log.warning("could not commit the end of an attempt: %s", error)
                if halt.reason is Reason.LEASE_LOST:
                    raise Halted(Reason.LEASE_LOST) from error
                time.sleep(RETRY_SECONDS)


def _ending(claim: Claim, error: Exception) -> Ending:
    """What to commit for an attempt that did not succeed."""
    match error:
        case Halted(reason=Reason.SHUTDOWN):
            return lambda session: claims.hand_back(session, claim.token, Reason.SHUTDOWN)
        case Halted() | CancelledError():
            return lambda session: claims.cancelled(session, claim.token)
    why = _failure(error)
    return lambda session: claims.fail(session, claim.token, why)


def _failure(error: Exception) -> Failure:
    """What the user is told of an error: never its text where that may name our paths."""
    match error:
        case AttemptFailed():
            return error.failure
        case CorruptFileError():
            return Failure(FailureCause.INTERNAL, "a stored file of the job is damaged")
        case ValidationError():
            return Failure(
                FailureCause.INVALID_INPUT,
                "this release does not understand the job's recipe",
                "recipe",
                "submit the job again with a recipe of this release",
            )
        case RefusedError():
            return Failure(FailureCause.INTERNAL, "the trainer produced a student that is not a usable model")
        case _:
            return Failure(FailureCause.INTERNAL, "the worker met an error of its own while it ran the job")
