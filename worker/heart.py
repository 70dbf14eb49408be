"""The heartbeat: says that this worker lives, renews its lease, and brings back what users ask for."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from threading import Event, Thread
from uuid import UUID

from core.db import SessionFactory
from core.jobs import claims
from core.workers import service as workers
from worker import devices
from worker.halt import Halt, Reason, boot_seconds

log = logging.getLogger(__name__)


class Heart:
    """One thread per worker process, beating from `start` to `stop`.

    Args:
        every: seconds between beats.
        lease_seconds: for how long each beat renews the lease.
    """

    def __init__(
        self, sessions: SessionFactory, worker_id: str, *, every: float, lease_seconds: float
    ) -> None:
        self._sessions = sessions
        self._worker_id = worker_id
        self._every = every
        self._lease_seconds = lease_seconds
        self._held: tuple[UUID, Halt, Context] | None = None
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; waits for a beat under way, but not for a database that does not answer."""
        self._stopping.set()
        self._thread.join(1)

    def lease_end(self, asked_at: float) -> float:
        """Until when a lease is surely ours that was asked for at `asked_at` (`boot_seconds`).

        The database began to count later than that; the margin is the time it takes to stop a trainer.
        """
        return asked_at + self._lease_seconds - min(1.0, self._lease_seconds / 10)

    @contextmanager
    def holding(self, token: UUID, halt: Halt) -> Iterator[None]:
        """Renew this lease with every beat inside the block."""
        self._held = token, halt, copy_context()  # its log lines name the job
        try:
            yield
        finally:
            self._held = None

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            try:
                self._beat()
            except Exception as error:  # whatever it is, this thread goes on: the lease depends on it
                log.warning("no heartbeat: %s", error)

    def _beat(self) -> None:
        held = self._held  # let go meanwhile, its renewal finds no row, which does no harm
        if held is not None:
            token, halt, known_to_the_log = held
            known_to_the_log.run(self._renew, token, halt)
        with self._sessions.begin() as session:
            workers.heartbeat(session, self._worker_id, renewed=held is not None, gpu_use=devices.gpu_use())

    def _renew(self, token: UUID, halt: Halt) -> None:
        asked_at = boot_seconds()
        try:
            with self._sessions.begin() as session:
                wishes = claims.renew(session, token, self._lease_seconds)
        except claims.LeaseLostError:
            halt.ask(Reason.LEASE_LOST)
            return
        halt.extend(self.lease_end(asked_at))
        halt.ask_to_finish(wishes.finish)
        for wished, reason in (
            (wishes.cancel, Reason.CANCEL),
            (wishes.overdue, Reason.DEADLINE),
            (wishes.pause, Reason.PAUSE),
        ):
            if wished:
                halt.ask(reason)
