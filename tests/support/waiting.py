"""Waiting for a condition, never for a time.

What the service promises in seconds is asserted as promised. Everything else gets ample time, because the
machine that runs the tests may be slow or busy.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 60, what: str = "") -> T:
    """Ask again and again; the first answer that is true.

    Raises:
        AssertionError: there was none in `seconds`.
    """
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not in {seconds} s: {what or condition}"
        time.sleep(0.02)
    return answer


def alive(process: psutil.Process | int) -> bool:
    """Whether a process runs. A zombie does not; when its parent collects it is not our business."""
    try:
        process = psutil.Process(process) if isinstance(process, int) else process
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until_ended(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until none of these processes runs.

    Raises:
        AssertionError: some still run after `seconds`.
    """
    end = time.monotonic() + seconds
    while running := [process for process in processes if alive(process)]:
        assert time.monotonic() < end, f"still there after {seconds} s: {running}"
        time.sleep(0.02)
