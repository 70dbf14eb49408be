"""What others ask of a run while it runs: to stop, to finish with what it has, to wait for a lease."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mixkd.contract.messages import Message, Phase, PhaseStarted
from mixkd.contract.signals import FINISH
from mixkd.lease import Lease


class Control:
    """Two wishes that a training looks at between two steps.

    Set them from wherever you like: another thread, a callback, a test. In a process of its own signals set
    them, once its main thread has called `install()`:

    - SIGTERM: `stop`. A training writes a checkpoint at its next step and ends with `SystemExit(143)`;
      outside of one the exit comes at once. Let it pass; tidy up in `finally`.
    - SIGUSR1: `finish_now`. The training stops at its next step and counts with its best evaluation; the wish
      is granted with that, and what comes after goes its way.
    - One of `mixkd.contract.signals.FINISH`: the same, if it names the phase that is under way.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self.stop = False
        self.finish_now = False
        self._lease = lease
        self._training = False
        self._phase: Phase | None = None

    def install(self) -> None:
        """Let signals say what is wished."""
        signal.signal(signal.SIGTERM, self._on_stop)
        for number in (signal.SIGUSR1, *FINISH.values()):
            signal.signal(number, self._on_finish)

    def hear(self, message: Message) -> None:
        """A wish that came too late for the phase before ends with it: it was not meant for the next one.

        Hear of a phase before any supervisor does.
        """
        if isinstance(message, PhaseStarted):
            self._phase = message.phase
            self.finish_now = False

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within the block a wish to stop waits for `leave_if_asked`."""
        self._training = True
        try:
            yield
        finally:
            self._training = False
        self.leave_if_asked()  # it may have come after the last step

    def await_lease(self) -> None:
        """Return when a step may be made: at once, where nobody lends the run to this process.

        Raises:
            SystemExit: it was asked to stop meanwhile, or the lease was not renewed.
        """
        if self._lease is not None:
            self._lease.wait(self.leave_if_asked)

    def leave_if_asked(self) -> None:
        """End the process if that is wished.

        Raises:
            SystemExit: the status is 143, as after a SIGTERM that nobody handles.
        """
        if self.stop:
            raise SystemExit(128 + signal.SIGTERM)

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the tidying up
        self.stop = True
        if not self._training:
            self.leave_if_asked()

    def _on_finish(self, number: int, _frame: FrameType | None) -> None:
        if number in (signal.SIGUSR1, self._phase and FINISH.get(self._phase)):
            self.finish_now = True
