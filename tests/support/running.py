"""A supervisor inside the test's own process."""

from threading import Thread

from worker.heart import Heart
from worker.supervisor import Supervisor


class Running:
    """A supervisor that works in a thread of its own."""

    def __init__(self, supervisor: Supervisor, heart: Heart) -> None:
        self.supervisor = supervisor
        self.heart = heart
        self._thread = Thread(target=supervisor.work)
        self._thread.start()

    def join(self, seconds: float = 60) -> None:
        """Wait until nothing is queued any more."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the supervisor works on"
