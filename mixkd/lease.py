"""How long this process may surely work at a run that its supervisor holds by a lease.

A supervisor may be frozen while its trainer runs on, and somebody else may be given the run meanwhile. So it
writes into a file that both have mapped until when the lease lasts, and no step begins later than that.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable

PATIENCE_SECONDS = 120.0
_TICK_SECONDS = 0.02
_END = struct.Struct("=d")  # eight bytes, which a processor stores at once


class Lease:
    """The end of a lease, in seconds of CLOCK_BOOTTIME: the clock that nobody sets and that never sleeps.

    Args:
        descriptor: of a file of eight bytes, open for reading.
    """

    def __init__(self, descriptor: int) -> None:
        self._shared = mmap.mmap(descriptor, _END.size, prot=mmap.PROT_READ)

    def wait(self, each_tick: Callable[[], None]) -> None:
        """Return once the lease lasts; at once, if it does.

        Args:
            each_tick: called while waiting; what it raises ends the waiting.

        Raises:
            SystemExit: it was not renewed for two minutes: whoever holds the run now does not want us.
        """
        given_up = time.monotonic() + PATIENCE_SECONDS
        while time.clock_gettime(time.CLOCK_BOOTTIME) >= _END.unpack(self._shared[:])[0]:
            each_tick()
            if time.monotonic() >= given_up:
                raise SystemExit(os.EX_TEMPFAIL)
            time.sleep(_TICK_SECONDS)
