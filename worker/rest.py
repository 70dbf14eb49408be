"""How long a worker that may be broken leaves the queue to others.

A worker with a dead GPU or a full disk is always idle first. It would claim job after job and fail them all
in seconds, while its neighbours train.
"""

from core.jobs.states import LONGEST_DELAY
from worker.halt import boot_seconds


class Rest:
    """Grows with each attempt in a row that fails before its first step; one that makes a step ends it.

    Args:
        usual: seconds after the first such attempt; twice that after the next.
    """

    def __init__(self, usual: float) -> None:
        self._usual = usual
        self._failures = 0
        self._made_a_step = False
        self._until = 0.0

    def begin(self) -> None:
        """An attempt begins."""
        self._made_a_step = False

    def step(self) -> None:
        """It made a step, or needed none: this worker can do something."""
        self._failures, self._made_a_step = 0, True

    def fail(self) -> float:
        """It failed; seconds to rest for."""
        if self._made_a_step:
            return 0.0
        seconds = min(self._usual * 2.0 ** min(self._failures, 60), LONGEST_DELAY)
        self._failures += 1
        self._until = boot_seconds() + seconds
        return seconds

    @property
    def left(self) -> float:
        """Seconds until the next claim."""
        return max(self._until - boot_seconds(), 0.0)
