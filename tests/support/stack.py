"""`mixkd-server up` as a child of a test."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from core import embedded
from mixkd_client import Client
from tests.support.waiting import until, until_ended

SERVER = Path(sys.executable).with_name("mixkd-server")


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MIXKD_")}
    return kept | {"OMP_NUM_THREADS": "1", **settings}


@dataclass(frozen=True)
class Stack:
    """A running `mixkd-server up`."""

    url: str
    key: str | None  # told on the first start only
    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path

    def client(self) -> Client:
        assert self.key is not None
        return Client(self.url, self.key)

    def children(self) -> list[psutil.Process]:
        """Everything that the launcher has started, directly or not."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def family(self) -> list[psutil.Process]:
        """The launcher and its children."""
        return [psutil.Process(self.process.pid), *self.children()]

    def stop(self, number: signal.Signals) -> None:
        """Ask the launcher to stop. Ten seconds are promised, for it and all that it started."""
        family = self.family()
        asked = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(60) == 0
        until_ended(family, 60)
        assert time.monotonic() - asked < 10


Start = Callable[..., Stack]


@contextmanager
def starter() -> Iterator[Start]:
    """`start(data_dir, *options)` starts a stack on a free port; whatever still runs at the end is ended."""
    processes: dict[subprocess.Popen[bytes], Path] = {}

    def start(data_dir: Path, *options: str | Path, key: str | None = None, **settings: str) -> Stack:
        ready, log_file = data_dir.with_suffix(".ready"), data_dir.with_suffix(".log")
        ready.unlink(missing_ok=True)  # of a stack that was killed
        where = ["--data-dir", data_dir, "--port", "0", "--ready-file", ready]
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [SERVER, "up", *where, *options], stdout=log, stderr=log, env=environment(**settings)
            )
        processes[process] = data_dir
        until(lambda: ready.exists() or process.poll() is not None, seconds=120, what="ready, or ended")
        assert process.poll() is None, log_file.read_text()
        assert stat.S_IMODE(ready.stat().st_mode) == 0o600, "it holds a key"
        told = json.loads(ready.read_text())
        return Stack(told["url"], told["api_key"] or key, process, data_dir, log_file)

    try:
        yield start
    finally:
        for process in processes:
            _end(process)
        for data_dir in set(processes.values()):
            embedded.remove(data_dir)  # also the database that, as root, lies outside pytest's closed folder


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    finally:
        process.kill()
        process.wait()
