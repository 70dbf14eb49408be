"""Runs jobs, one at a time: claim, fetch, run the trainer, publish, and again until nothing is queued."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar
from uuid import uuid4

import obstore
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from core.config import Settings
from core.db import SessionFactory
from core.jobs import claims, ends
from core.jobs.claims import Claim, LeaseLostError
from core.jobs.ends import OVERDUE, CancelledError, Failure
from core.jobs.states import FailureCause
from core.log import bound
from core.queue import Queue
from core.scratch import scratch
from core.storage import Storage
from mixkd.contract.messages import CheckpointWritten, Message, PhaseStarted, Progress
from mixkd.contract.work import WORK
from worker.checkpoints import Uploader, bring_back, notes_on
from worker.endings import AttemptFailed, Ending, ending, may_be_ours
from worker.fetch import fetch
from worker.halt import Halt, Halted, Patience, Reason, boot_seconds, interruptible
from worker.heart import Heart
from worker.publish import Student, publish, withdraw
from worker.record import Recorder
from worker.rest import Rest
from worker.trainer_process import TRAINER, failure, run_trainer

RETRY_SECONDS = 0.5
PAUSE_SECONDS = 60.0  # for the step under way and its checkpoint, and as much again to store it
ABORT_SECONDS = 2.0  # for a trainer that hangs to write down where

log = logging.getLogger(__name__)

T = TypeVar("T")


class Supervisor:
    """One worker's way through the queue.

    Args:
        worker_id: as it is registered.
        settings: what it does not get from them is given, since tests share it.
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
        on_gpu: bool,
        settings: Settings,
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        self._sessions = sessions
        self._storage = storage
        self._queue = queue
        self._heart = heart
        self._worker_id = worker_id
        self._device = "gpu" if on_gpu else "cpu"
        self._settings = settings
        stopping = settings.shutdown_grace_seconds
        self._grace = {  # between SIGTERM and SIGKILL
            Reason.CANCEL: settings.cancel_grace_seconds,
            Reason.DEADLINE: settings.cancel_grace_seconds,
            Reason.PAUSE: PAUSE_SECONDS,
            Reason.SHUTDOWN: stopping / 2,
            Reason.SILENCE: ABORT_SECONDS,
        }
        self._storing = {Reason.PAUSE: PAUSE_SECONDS, Reason.SHUTDOWN: stopping / 3}  # the last checkpoint
        self._trainer = tuple(trainer)
        self._working = Lock()
        self._stopping = Event()
        self._rest = Rest(settings.retry_seconds)
        self._halt: Halt | None = None

    def work(self) -> None:
        """Run jobs until none is queued. Does nothing if it is at it already."""
        if not self._working.acquire(blocking=False):
            return
        try:
            while not self._stopping.wait(self._rest.left) and self._run_one():
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
        try:
            claim, lease_end = self._claim()
        except (DBAPIError, LeaseLostError) as error:  # the reconciler wakes us again
            log.warning("could not claim: %s", error)
            return False
        if claim is None:
            return False
        halt = self._halt = Halt(lease_end)
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

    def _claim(self) -> tuple[Claim | None, float]:
        """Claim a job; until when it is surely ours.

        A claim whose answer was lost may have been made: it is asked for again with the same token as long as
        it would last, or the job would be nobody's until then. While its commit is still under way, a second
        claim with that token is refused as a double, and asked for once more.

        Raises:
            DBAPIError: the database refuses, or stays away.
            LeaseLostError: it was made, and came to light too late.
        """
        token, first = uuid4(), boot_seconds()
        asked_at, again = first, False
        while True:
            try:
                with self._sessions.begin() as session:
                    claim = claims.claim(
                        session,
                        self._worker_id,
                        token,
                        self._settings.lease_seconds,
                        most_running=self._settings.max_running_per_owner,
                        again=again,
                    )
                return claim, self._heart.lease_end(asked_at)
            except (OperationalError, InterfaceError, IntegrityError) as error:
                if isinstance(error, IntegrityError) and not again:
                    raise
                if self._stopping.is_set() or boot_seconds() >= self._heart.lease_end(first):
                    raise
                log.warning("asking again for a job: %s", error)
            self._stopping.wait(RETRY_SECONDS)
            asked_at, again = boot_seconds(), True

    def _attempt(self, claim: Claim, halt: Halt) -> None:
        """Run a claimed job and commit how it ended.

        Raises:
            Halted, LeaseLostError: the job is, or may be, somebody else's; nothing was committed.
        """
        self._rest.begin()
        try:
            with scratch(self._settings.work_dir, f"{claim.job_id}-{claim.fence}") as folder:
                recorder = Recorder(self._sessions, claim.token)
                student = self._produce(claim, folder, recorder, halt)
                self._commit_student(claim, student, recorder, halt)
            self._rest.step()
            log.info("the job succeeded")
        except LeaseLostError:
            raise
        except Exception as error:
            if isinstance(error, Halted) and error.reason is Reason.LEASE_LOST:
                raise
            expected = isinstance(error, Halted | CancelledError | AttemptFailed)
            log.warning("the attempt ends: %s", error, exc_info=not expected)
            self._commit(halt, ending(claim, error, self._settings.retry_seconds))
            if may_be_ours(error) and (seconds := self._rest.fail()):
                log.warning(
                    "it made no step: this worker may be broken, and claims nothing for %g s", seconds
                )
        if self._stopping.is_set():
            self._queue.wake(self._device)  # a job handed back should not wait for the reconciler

    def _produce(self, claim: Claim, folder: Path, recorder: Recorder, halt: Halt) -> Student:
        """Everything between the claim and the final commit; the student lies in storage."""
        recorder.take(PhaseStarted(phase="prepare"))  # fetching is part of it; the trainer goes on with it
        run = folder / "run"
        spec = self._persistently(halt, lambda: fetch(self._storage, claim, folder, halt.check))
        found = self._persistently(halt, lambda: bring_back(self._storage, claim, run, spec, halt.check))
        for note in notes_on(found, claim):
            recorder.take(note)
        uploader = Uploader(
            self._sessions,
            self._storage,
            claim,
            work=run / WORK,
            aside=folder / "aside",
            halt=halt,
            found=found,
        )
        self._train(uploader, spec, run, recorder, halt)
        recorder.take(PhaseStarted(phase="publish"))
        return self._persistently(halt, lambda: publish(self._storage, claim.prefix, run, halt.check))

    def _train(self, uploader: Uploader, spec: Path, run: Path, recorder: Recorder, halt: Halt) -> None:
        """Run the trainer to its end, and take its checkpoints to storage meanwhile."""
        uploader.start()
        unsent: list[CheckpointWritten] = []

        def take(message: Message | None) -> None:
            if halt.reason is Reason.LEASE_LOST:  # each line that is still unread may wait for the database
                raise Halted(Reason.LEASE_LOST)
            recorder.take(message)
            if isinstance(message, Progress):
                self._rest.step()
            if isinstance(message, CheckpointWritten):
                unsent[:] = [message]
            if unsent and recorder.all_written:  # who goes on from it says nothing of the steps before again
                uploader.take(unsent.pop())

        silence = self._settings.silence_seconds
        try:
            end = run_trainer(
                self._trainer,
                spec,
                run,
                halt,
                take,
                grace=self._grace,
                silence_seconds=silence,
                on_finished=recorder.finished,
            )
            recorder.flush()
            take(None)
        finally:
            uploader.finish(Patience(halt, self._storing).left)
        if halt.reason is Reason.SILENCE:
            said = f"the training said nothing for {silence:g} s, and was ended"
            raise AttemptFailed(
                Failure(FailureCause.INTERNAL, said, exit_code=end.code, log_tail=end.log_tail)
            )
        if halt.reason is Reason.DEADLINE:
            raise AttemptFailed(replace(OVERDUE, exit_code=end.code, log_tail=end.log_tail))
        halt.check()
        if end.failed is not None or not end.done:
            raise AttemptFailed(failure(end))

    def _persistently(self, halt: Halt, work: Callable[[], T]) -> T:
        """Do what needs the storage, again and again while that is away, but not for ever.

        Raises:
            Halted: the attempt is to end.
        """
        given_up = time.monotonic() + self._settings.storage_patience_seconds
        for delay in chain((1.0, 2.0, 5.0), repeat(10.0)):
            try:
                return interruptible(halt, work)
            except FileNotFoundError:
                raise
            except (OSError, obstore.exceptions.BaseError) as error:
                if time.monotonic() + delay >= given_up:
                    raise
                log.warning("files could not be moved; trying again in %g s: %s", delay, error)
                if (reason := halt.wait(delay)) is not None:
                    raise Halted(reason) from error
        raise AssertionError("there is always another delay")

    def _commit_student(self, claim: Claim, student: Student, recorder: Recorder, halt: Halt) -> None:
        """Make the student count. Where it is not known whether it does, its files stay: an orphan costs
        space, a row without its files costs trust."""
        info, report = student.info.model_dump(mode="json"), student.report
        try:
            self._write_down(recorder, halt)
            self._commit(
                halt, lambda session: ends.succeed(session, claim.token, student.files, info, report)
            )
        except (LeaseLostError, CancelledError):
            withdraw(self._storage, claim.prefix)
            raise

    def _write_down(self, recorder: Recorder, halt: Halt) -> None:
        """Write what the trainer said last, which nobody may once the job has ended.

        Raises:
            LeaseLostError: the job is no longer ours.
            Halted: the lease ran out meanwhile.
        """
        recorder.flush()
        while not recorder.all_written:
            if halt.reason is Reason.LEASE_LOST:
                raise Halted(Reason.LEASE_LOST)
            time.sleep(RETRY_SECONDS)
            recorder.flush()

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
