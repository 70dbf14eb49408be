"""`python -m mixkd run SPEC.json --dir D`: a whole distillation, with no service at all.

Exit status: 0 with `D/student/` and `D/report.json` in place; 1 after a failure, which is told; 143 after
SIGTERM.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mixkd.contract.problems import RefusedError
from mixkd.failures import explain
from mixkd.inputs import check, read_spec
from mixkd.reporter import Reporter, Send, to_pipe, to_stdout, to_terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    given = _parser().parse_args(arguments)
    if given.command == "validate":
        return _validate(given.spec)
    signal.signal(signal.SIGTERM, _stop)
    if given.pipe is not None:
        _die_with_parent()
    try:
        status = _run(given.spec, given.dir, given.device, _send(given.pipe))
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except SystemExit as stop:  # told by SIGTERM, or nobody reads the pipe: all is tidied up by now
        status = int(stop.code or 0)
    if given.pipe is not None:
        # Taking Python and torch down in order took 2 s on a busy machine, which a cancel would wait for.
        sys.stderr.flush()
        os._exit(status)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mixkd", description="Distil a text classifier.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="distil; the student and its report go to a folder")
    run.add_argument("spec", type=Path, help="the run, as JSON (mixkd.contract.spec.RunSpec)")
    run.add_argument("--dir", type=Path, required=True, help="where student/ and report.json go")
    run.add_argument("--device", default=os.environ.get("MIXKD_DEVICE"), help="cpu, cuda, cuda:1 …")
    run.add_argument("--pipe", type=int, metavar="FD", help="send messages there, die with the parent")
    validate = commands.add_parser("validate", help="check a run without training anything")
    validate.add_argument("spec", type=Path)
    return parser


def _validate(path: Path) -> int:
    try:
        teacher, data = check(read_spec(path))
    except RefusedError as refused:
        for problem in refused.problems:
            remedy = f" ({problem.remedy})" if problem.remedy else ""
            print(f"{problem.field}: {problem.problem}{remedy}", file=sys.stderr)  # noqa: T201 - a command's answer
        return 1
    print(teacher.model_dump_json(indent=2), data.model_dump_json(indent=2), sep="\n")  # noqa: T201 - likewise
    return 0


def _run(spec_file: Path, folder: Path, device: str | None, send: Send) -> int:
    reporter = Reporter(send)
    try:
        spec = read_spec(spec_file)
        folder.mkdir(parents=True, exist_ok=True)
        _quiet_libraries()
        from mixkd.run import run

        run(spec, folder, reporter, device)
    except Exception as error:
        if not isinstance(error, RefusedError):  # what a refusal has to say is in its message
            traceback.print_exc()
        reporter.failed(explain(error))
        return 1
    return 0


def _quiet_libraries() -> None:
    # Nothing is ever fetched here: a run has its files or it fails.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _send(pipe: int | None) -> Send:
    if pipe is not None:
        return to_pipe(pipe)
    return to_terminal() if sys.stderr.isatty() else to_stdout()


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the tidying up
    raise SystemExit(128 + signal.SIGTERM)


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the one that started it ends, however it ends."""
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    set_parent_death_signal = 1
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended between the two lines
        raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
