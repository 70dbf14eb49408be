"""`run`: a whole distillation, for a person at a terminal, for a script, or for the service's worker."""

import argparse
import errno
import os
import signal
import sys
import traceback
from pathlib import Path

from mixkd.cli import show
from mixkd.contract.problems import RefusedError
from mixkd.failures import explain
from mixkd.inputs import read_spec
from mixkd.lease import Lease
from mixkd.parent import die_with_parent
from mixkd.quiet import quiet_libraries
from mixkd.reporter import Reporter, Send, to_pipe, to_stdout, to_terminal
from mixkd.training.control import Control


def main(given: argparse.Namespace) -> int:
    """Distil; 0 with `student/` and `report.json` in the folder, 1 after a failure, 143 after SIGTERM."""
    control = Control(None if given.lease is None else Lease(given.lease))
    control.install()
    if given.pipe is not None:
        die_with_parent()
    try:
        status = _run(given, control)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as stop:  # told by SIGTERM, or nobody reads the pipe: all is tidied up by now
        status = int(stop.code or 0)
    if given.pipe is not None:
        # Taking Python and torch down in order took 2 s on a busy machine, which a cancel would wait for.
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(given: argparse.Namespace, control: Control) -> int:
    on_terminal = given.pipe is None and not given.json and sys.stderr.isatty()
    reporter = Reporter(_send(given.pipe, on_terminal=on_terminal))
    try:
        spec = read_spec(given.spec)
        _make(given.dir)
        quiet_libraries()
        from mixkd.run import run

        run(spec, given.dir, reporter, given.device, control, fresh=given.fresh)
    except BrokenPipeError:  # nobody reads the messages any more; 0 would say that there is a student
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's exit flushes once more
        return 1
    except RefusedError as refused:
        # A supervisor knows the fields of a job, whoever wrote a spec those of a spec.
        reporter.failed(explain(refused if given.pipe is not None else show.as_a_spec_says(refused)))
        if not on_terminal:  # which has shown it already
            show.refusals(refused)
        return 1
    except Exception as error:
        failed = explain(error)
        reporter.failed(failed)
        if failed.cause == "internal":  # any other cause is told in full
            traceback.print_exc()
        return 1
    return 0


def _send(pipe: int | None, *, on_terminal: bool) -> Send:
    if pipe is not None:
        return to_pipe(pipe)
    return to_terminal() if on_terminal else to_stdout()


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise show.unwritable("dir", folder, error) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise show.unwritable("dir", folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
