"""Child processes that never outlive their parent, and the logs they write."""

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_CHILD = str(Path(__file__).with_name("_child.py"))
_LOG_LIMIT = 16 * 2**20


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


def stop(process: subprocess.Popen[bytes], *steps: tuple[signal.Signals, float]) -> int:
    """Send each signal in turn and wait for so many seconds; SIGKILL at the end. The exit status."""
    for number, seconds in steps:
        if process.poll() is not None:
            break
        process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    if process.poll() is None:
        process.kill()
    return process.wait()


def open_log(path: Path) -> IO[bytes]:
    """A log to append to; one that has grown large makes room first (`.1` keeps the previous one)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


def tail(path: Path, lines: int = 15, limit: int = 16_384) -> str:
    """The last lines of a log, `limit` bytes of them at most; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            return b"\n".join(file.read().splitlines()[-lines:]).decode(errors="replace")
    except OSError:
        return ""
