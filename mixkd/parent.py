"""A child process that does not outlive the one that started it."""

import ctypes
import os
import signal
import sys


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends, however it ends."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended between the two lines
        raise SystemExit(1)
