"""Child processes that never outlive their parent, and the logs they write."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

_CHILD = str(Path(__file__).with_name("_child.py"))
_POLL_SECONDS = 0.02

LOG_LIMIT = 16 * 2**20
"""Bytes; a log is moved aside when it has grown beyond."""


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    uid: int
    gid: int


def spawn(
    argv: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    output: IO[bytes] | int | None = None,
    account: Account | None = None,
    inherit: Collection[int] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a child that gets `death_signal` when the calling thread ends, in whatever way.

    The child leads a session of its own: a Ctrl-C at the terminal reaches its parent only, which then
    stops its children in the right order.

    Args:
        output: where stdout and stderr go; None: where ours go.
        account: who the program runs as; None: who we are.
        inherit: file descriptors that stay open in the child.
        env: the whole environment; None: ours.
    """
    uid, gid = (str(account.uid), str(account.gid)) if account else ("-", "-")
    launcher = [sys.executable, "-I", "-S", _CHILD, str(int(death_signal)), str(os.getpid()), uid, gid, "--"]
    return subprocess.Popen(
        [*launcher, *map(str, argv)],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
        pass_fds=tuple(inherit),
        env=env,
        cwd=cwd,
    )


StopSignals = Sequence[tuple[signal.Signals, float]]
"""Signals to send in turn, each with the seconds to wait after it."""


def stop(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> int:
    """Send each signal in turn and wait for so many seconds; SIGKILL at the end. The exit status."""
    stop_together([(process, steps)])
    return process.wait()


def stop_together(processes: Collection[tuple[subprocess.Popen[bytes], StopSignals]]) -> None:
    """Stop several at the same time, each with signals of its own; SIGKILL for what is left."""
    begun = time.monotonic()
    plans = []
    for process, steps in processes:
        due = list(accumulate((seconds for _, seconds in steps), initial=begun))
        plans.append(
            (process, deque(zip(due, [*(number for number, _ in steps), signal.SIGKILL], strict=True)))
        )
    while running := [(process, plan) for process, plan in plans if process.poll() is None]:
        for process, plan in running:
            if plan and time.monotonic() >= plan[0][0]:
                process.send_signal(plan.popleft()[1])
        time.sleep(_POLL_SECONDS)


def open_log(path: Path) -> IO[bytes]:
    """A log to append to; one that has grown large makes room first (`.1` keeps the previous one)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    rotate(path)
    return path.open("ab")


def rotate(path: Path) -> None:
    """Empty a log that has grown large, after copying it to `.1`; its writer keeps it open meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_LIMIT:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)


def tail(path: Path, lines: int = 15, limit: int = 16_384) -> str:
    """The last lines of a log, `limit` bytes of them at most; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return b"\n".join(file.read().splitlines()[-lines:]).decode(errors="replace")
    except OSError:
        return ""
