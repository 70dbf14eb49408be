"""The trainer: a child process without any credential, in a session of its own, with JSON lines on a pipe.

It dies with this process (the kernel kills it) and with its attempt (the whole process group is killed).
"""

import contextlib
import logging
import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from pydantic import ValidationError

from core import processes
from core.jobs.ends import Failure
from core.jobs.states import FailureCause
from mixkd.contract import messages
from mixkd.contract.messages import Done, Failed, Message, Phase, PhaseStarted
from mixkd.contract.signals import FINISH
from worker.halt import Halt, Patience, Reason

TRAINER: tuple[str, ...] = (sys.executable, "-P", "-m", "mixkd")  # -P: nothing is imported from the folder

TICK_SECONDS = 0.2
EXIT_SECONDS = 10.0  # between the end of the pipe and the end of the process
KILLED_SECONDS = 30.0  # after SIGKILL: freeing the memory of a large process, or of a GPU, takes a while
MAX_LINE_BYTES = 1 << 20
LOG_LINES = 200
LOG_BYTES = 64 << 10

# What a trainer may know of our environment. Anything else, whatever its name, may be a secret.
_ENV_NAMES = {
    "PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHASHSEED", "VIRTUAL_ENV",
    "CUBLAS_WORKSPACE_CONFIG", "MIXKD_DEVICE",
}  # fmt: skip
_ENV_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "OPENBLAS_", "TORCH_", "PYTORCH_")

_FOLDERS = re.compile(r"""(?<![\w:/.])/(?:[^\s/:"'<>]+/)+""")  # of an absolute path; the file's name stays

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exit:
    """How a trainer ended. `code` is negative for a signal; `hung`: it had to be killed at its end."""

    code: int
    hung: bool
    done: bool
    failed: Failed | None
    memory_ran_out: bool
    log_tail: str


def run_trainer(
    command: Sequence[str],
    spec: Path,
    folder: Path,
    halt: Halt,
    on_message: Callable[[Message | None], None],
    *,
    grace: Mapping[Reason, float],
    silence_seconds: float = math.inf,
    on_finished: Callable[[], None] = lambda: None,
) -> Exit:
    """Start a trainer and attend to it until its last process is gone.

    Call it from a thread that lives as long as the process: the kernel kills the trainer when that
    thread ends.

    Args:
        command: the program and its first arguments; `run SPEC --dir D --pipe FD` follow.
        folder: a folder of the trainer's own, made when missing.
        on_message: called with each message, and with None several times a second. What it raises ends
            the trainer.
        grace: seconds between SIGTERM and SIGKILL for each reason to halt; none: SIGKILL at once.
        silence_seconds: without a message for so long, the trainer hangs, and the attempt is halted.
        on_finished: called when a training did end early as `halt.finish` asked.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    log_path = folder / "trainer.log"
    kills_before = _out_of_memory_kills()
    done, failed, hung = False, None, False
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(halt.shared())
        reading, writing = os.pipe()
        stack.callback(os.close, reading)
        try:
            with processes.open_log(log_path) as output:
                process = processes.spawn(
                    [*command, "run", spec, "--dir", folder, "--pipe", str(writing), "--lease", str(lease)],
                    death_signal=signal.SIGKILL,
                    output=output,
                    inherit=[writing, lease],
                    env=environment(os.environ, folder),
                    cwd=folder,
                )
        finally:
            os.close(writing)  # the trainer's copy is the last: its end is the end of the pipe
        stack.callback(process.wait)
        stack.enter_context(_ended_by(halt, process.pid, grace))
        finishing, heard_at = _Finishing(process.pid, halt, on_finished), time.monotonic()
        for message in _messages(reading, lambda: _has_exited(process.pid)):
            done = done or isinstance(message, Done)
            failed = message if isinstance(message, Failed) else failed
            finishing.look(message)
            on_message(message)
            if message is not None:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > silence_seconds:
                halt.ask(Reason.SILENCE)
        hung = not _await_exit(process.pid, EXIT_SECONDS)
    code = process.wait()
    return Exit(
        code=code,
        hung=hung,
        done=done,
        failed=failed,
        memory_ran_out=code == -signal.SIGKILL and _out_of_memory_kills() > kills_before,
        log_tail=presentable(processes.tail(log_path, LOG_LINES, LOG_BYTES)),
    )


class _Finishing:
    """Passes the wish to finish early on to the training under way, which ends its phase with that."""

    def __init__(self, pid: int, halt: Halt, on_finished: Callable[[], None]) -> None:
        self._pid = pid
        self._halt = halt
        self._on_finished = on_finished
        self._phase: Phase | None = None
        self._told = False

    def look(self, message: Message | None) -> None:
        """After every message, and when time passes without one."""
        if isinstance(message, PhaseStarted):
            self._phase = message.phase
            if self._told:
                self._told = False
                self._on_finished()
        number = self._phase and FINISH.get(self._phase)
        if self._halt.finish and number and not self._told:
            self._told, self._halt.finish = True, False
            _signal_one(self._pid, number)


def presentable(text: str) -> str:
    """A log's text as its job's owner may read it and Postgres can store it: no folder of this machine."""
    return _FOLDERS.sub("…/", text).replace("\0", "\N{REPLACEMENT CHARACTER}")


def failure(end: Exit) -> Failure:
    """The cause of an end without success.

    A trainer that can speak says it itself. Killed from outside, it ran out of memory if the kernel
    counted such a kill meanwhile; otherwise somebody took the worker's process away (`worker_lost`). A
    crash (SIGSEGV, SIGABRT …) or an exit without a word is `internal`. All three are tried again.
    """
    if end.failed is not None:
        cause, detail = FailureCause(end.failed.cause), end.failed.detail
        return Failure(cause, detail, end.failed.field, end.failed.remedy, end.code, end.log_tail)
    number = -end.code if end.code < 0 else end.code - 128
    name = signal.Signals(number).name if number in set(signal.Signals) else None
    remedy = None
    if end.memory_ran_out:
        cause, detail = FailureCause.OUT_OF_MEMORY, "the machine ran out of memory and ended the training"
        remedy = "use smaller batches or a smaller max_length"
    elif end.hung:
        cause, detail = FailureCause.INTERNAL, "the training process fell silent and did not end"
    elif name in {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"}:
        cause, detail = FailureCause.WORKER_LOST, f"the training process was ended from outside ({name})"
    elif name is not None:
        cause, detail = FailureCause.INTERNAL, f"the training process crashed ({name})"
    else:
        cause = FailureCause.INTERNAL
        detail = f"the training process ended without a result (exit status {end.code})"
    return Failure(cause, detail, remedy=remedy, exit_code=end.code, log_tail=end.log_tail)


def environment(ours: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The trainer's whole environment: a list of what it may know, and no network for the hub's library."""
    kept = {
        name: value for name, value in ours.items() if name in _ENV_NAMES or name.startswith(_ENV_PREFIXES)
    }
    return kept | {
        "HOME": str(folder),  # caches go where they are removed, and no dot file of ours is read
        "TMPDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
    }


def _messages(pipe: int, has_exited: Callable[[], bool]) -> Iterator[Message | None]:
    """Messages as they come, None at every tick without one, until the pipe or the process ends."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    rest = b""
    while True:
        exited = has_exited()  # before the poll: what it wrote last is read first
        if not poll.poll(0 if exited else TICK_SECONDS * 1000):
            if exited:  # a grandchild may hold the pipe open for ever
                return
            yield None
            continue
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _decoded(line)
        if len(rest) > MAX_LINE_BYTES:
            log.warning("the trainer sent a line without an end; dropped %d bytes", len(rest))
            rest = b""


def _decoded(line: bytes) -> Message | None:
    try:
        return messages.decode(line.replace(rb"\u0000", rb"\ufffd"))  # Postgres stores no NUL
    except ValidationError as error:  # one lost number is no reason to lose hours of training
        log.warning("the trainer sent what is no message: %s", error)
        return None


@contextlib.contextmanager
def _ended_by(halt: Halt, pid: int, grace: Mapping[Reason, float]) -> Iterator[None]:
    """End the process group when the attempt is halted, and in any case at the end of the block.

    A thread of its own does it: the block may be waiting for a database that does not answer.
    """
    left = Event()

    def watch() -> None:
        while not left.is_set():
            if (reason := halt.wait(TICK_SECONDS)) is not None:
                if grace.get(reason):
                    # On SIGABRT Python writes into the log where each of its threads is.
                    _signal(pid, signal.SIGABRT if reason is Reason.SILENCE else signal.SIGTERM)
                patience = Patience(halt, grace)
                while patience.left() and not _has_exited(pid):
                    time.sleep(0.02)
                _kill(pid)
                return

    watcher = Thread(target=watch, name="trainer-halt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()
        _kill(pid)  # the group outlives its leader, whose id stays taken until it is reaped


def _kill(pid: int) -> None:
    """End a trainer's process group. If not even that ends the trainer, end this process with all threads.

    A driver or a file system that hangs keeps the trainer from dying, and it may never. Its job must not wait
    for that: the heart stops here, so that the lease ends, after which the trainer makes no step.
    """
    _signal(pid, signal.SIGKILL)
    if not _await_exit(pid, KILLED_SECONDS):
        log.critical("the trainer (process %d) cannot be killed: leaving, so that others get its job", pid)
        logging.shutdown()
        os._exit(1)


def _signal_one(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _has_exited(pid: int) -> bool:
    """Whether a child has ended. It is not reaped, so that its id still names its group."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _await_exit(pid: int, seconds: float) -> bool:
    """Wait for a child's end, `seconds` at most; whether it came."""
    until = time.monotonic() + seconds
    while not (exited := _has_exited(pid)) and time.monotonic() < until:
        time.sleep(0.02)
    return exited


def _out_of_memory_kills() -> int:
    """How often the kernel has killed for memory: in our control group if it says so, else anywhere here."""
    for path in (*_cgroup_files(), Path("/proc/vmstat")):
        with contextlib.suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _cgroup_files() -> Iterator[Path]:
    root = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                yield root / path.lstrip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                yield root / "memory" / path.lstrip("/") / "memory.oom_control"
