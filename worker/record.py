"""Writes a trainer's messages to the database, batched, and through short outages of it."""

import logging
import time
from uuid import UUID

from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from core.db import SessionFactory
from core.jobs import claims
from mixkd.contract.messages import CheckpointWritten, Message, Metric, Note, PhaseStarted, Progress, Resolved

FLUSH_SECONDS = 1.0
MAX_METRICS = 10_000  # kept through an outage; then the oldest go

log = logging.getLogger(__name__)


class Recorder:
    """Collects messages of one attempt; phases, and all that comes before a checkpoint, are written at once,
    the rest about once a second."""

    def __init__(self, sessions: SessionFactory, token: UUID) -> None:
        self._sessions = sessions
        self._token = token
        self._events: list[PhaseStarted | Note | None] = []  # None: a training ended early
        self._said = 0  # the number of the last of them
        self._resolved: Resolved | None = None
        self._metrics: list[Metric] = []
        self._progress: Progress | None = None
        self._due = 0.0

    def take(self, message: Message | None) -> None:
        """Note a message; None: time passes.

        Raises:
            LeaseLostError: the job is no longer ours.
        """
        match message:
            case PhaseStarted():
                self._say(message)
                self._progress = None
                self._due = 0
            case Resolved():
                self._resolved = message
            case Note():
                self._say(message)
            case Metric():
                self._metrics.append(message)
            case Progress():
                self._progress = message
            case CheckpointWritten():
                self._due = 0
        if time.monotonic() >= self._due:
            self.flush()

    def finished(self) -> None:
        """The trainer ended a training early, as it was asked."""
        self._say(None)

    def _say(self, event: PhaseStarted | Note | None) -> None:
        self._events.append(event)
        self._said += 1

    @property
    def all_written(self) -> bool:
        """Whether nothing that was noted still waits for the database."""
        return not any((self._events, self._resolved, self._metrics, self._progress))

    def flush(self) -> None:
        """Write what was noted. If the database is away, it is kept for the next time.

        Raises:
            LeaseLostError: the job is no longer ours.
        """
        if self.all_written:
            return
        try:
            with self._sessions.begin() as session:
                for event in self._unwritten(session):
                    match event:
                        case PhaseStarted():
                            claims.enter_phase(session, self._token, event.phase, event.steps)
                        case Note():
                            claims.note(session, self._token, event.detail)
                        case None:
                            claims.finishing(session, self._token)
                if self._resolved is not None:
                    claims.resolved(session, self._token, self._resolved.runtime)
                if self._metrics:
                    claims.metrics(session, self._token, self._metrics)
                if self._progress is not None:
                    claims.progress(session, self._token, self._progress)
        except (OperationalError, InterfaceError) as error:
            log.warning("kept for later what the trainer said: %s", error)
            del self._metrics[:-MAX_METRICS]
            return
        except DataError as error:  # a number that is none: lost, but no reason to lose the training
            log.warning("dropped what the database does not store: %s", error.orig)
        finally:  # not before: it may have waited for longer than that
            self._due = time.monotonic() + FLUSH_SECONDS
        self._events, self._metrics = [], []
        self._resolved = self._progress = None

    def _unwritten(self, session: Session) -> list[PhaseStarted | Note | None]:
        """What waits but for what is there already: the answer to its commit was lost."""
        if not self._events:
            return []
        first = self._said - len(self._events)
        return self._events[max(claims.said(session, self._token, self._said) - first, 0) :]
