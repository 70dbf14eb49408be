"""The embedded service as a child of the demonstration: started, found ready, and gone afterwards."""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from core import embedded, processes

PR_SET_CHILD_SUBREAPER = 36
START_SECONDS = 60.0
STOP_SECONDS = 15.0


class DemoError(Exception):
    """Something that the demonstration promises did not happen."""


@contextmanager
def running(data_dir: Path, log: Path, model_root: Path) -> Iterator[tuple[str, str]]:
    """`mixkd-server up` on a free port; yields its address and an API key.

    It gets SIGTERM when we die, however we die. No `MIXKD_…` variable reaches it: what we show is the
    service as it comes.

    Raises:
        DemoError: it does not get ready; the message ends with its log.
    """
    ready_file = data_dir.with_suffix(".ready")
    ready_file.unlink(missing_ok=True)
    server = Path(sys.executable).with_name("mixkd-server")
    where: list[str | Path] = ["--data-dir", data_dir, "--model-root", model_root]
    command = [server, "up", *where, "--port", "0", "--ready-file", ready_file]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MIXKD_")}
    with log.open("wb") as output:
        process = processes.spawn(command, death_signal=signal.SIGTERM, output=output, env=env)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready_file.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise DemoError(f"the service did not start; {log}:\n{processes.tail(log)}")
                time.sleep(0.05)
            ready = json.loads(ready_file.read_text())
            yield ready["url"], ready["api_key"]
        finally:
            status = processes.stop(process, (signal.SIGINT, STOP_SECONDS))
            ready_file.unlink(missing_ok=True)
    if status != 0:
        raise DemoError(f"the service ended with status {status}; {log}:\n{processes.tail(log)}")


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that none escapes the final count."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants(patience: float = 5.0) -> list[str]:
    """Processes that we started, directly or not, and that are still there after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        alive = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    process.wait(0)  # an orphan that we adopted and that has ended: this buries it
                else:
                    alive.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.1)


def clear(data_dir: Path) -> None:
    """Remove what a former demonstration left, also one that was killed; its servers have ended by then.

    Raises:
        embedded.AlreadyRunningError: its servers are running.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            return embedded.remove(data_dir)
        except embedded.AlreadyRunningError:
            if time.monotonic() > deadline:  # a service whose demo was killed needs a moment to stop
                raise
        except embedded.EmbeddedError:
            return shutil.rmtree(data_dir)  # it was killed before there was a lock to hold
