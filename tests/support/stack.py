"""`mixkd-server up` as a child of a test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from core import embedded
from mixkd_client import Client
from tests.support.waiting import until


@dataclass(frozen=True)
class Stack:
    """A running `mixkd-server up`."""

    url: str
    key: str
    process: subprocess.Popen[bytes]
    data_dir: Path

    def client(self) -> Client:
        return Client(self.url, self.key)

    def family(self) -> list[psutil.Process]:
        """The launcher and everything that it has started, directly or not."""
        launcher = psutil.Process(self.process.pid)
        return [launcher, *launcher.children(recursive=True)]


Start = Callable[..., Stack]


@contextmanager
def starter() -> Iterator[Start]:
    """`start(data_dir, roots)` starts a stack; whatever still runs at the end is ended."""
    stacks: list[Stack] = []

    def start(data_dir: Path, roots: Path, *, key: str | None = None, **settings: str) -> Stack:
        ready = data_dir.with_suffix(".ready")
        ready.unlink(missing_ok=True)  # of a stack that was killed
        command: list[str | Path] = [Path(sys.executable).with_name("mixkd-server"), "up", "--port", "0"]
        where: list[str | Path] = ["--data-dir", data_dir, "--model-root", roots, "--ready-file", ready]
        env = {name: value for name, value in os.environ.items() if not name.startswith("MIXKD_")}
        env |= {"OMP_NUM_THREADS": "1", **settings}
        with data_dir.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen([*command, *where], stdout=log, stderr=log, env=env)
        until(lambda: ready.exists() or process.poll() is not None, seconds=90, what="ready, or ended")
        assert process.poll() is None, data_dir.with_suffix(".log").read_text()
        told = json.loads(ready.read_text())
        known = told["api_key"] or key  # it is told on the first start only
        assert known is not None
        stacks.append(Stack(told["url"], known, process, data_dir))
        return stacks[-1]

    yield start
    for stack in stacks:
        stack.process.send_signal(signal.SIGINT)
        stack.process.wait(30)
    for data_dir in {stack.data_dir for stack in stacks}:
        embedded.remove(data_dir)  # also the database that, as root, lies outside pytest's closed folder


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of them end within so many seconds."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]
