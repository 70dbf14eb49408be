"""What `python -m mixkd` understands: its commands and their flags."""

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from mixkd.contract.data_spec import DataFormat, Task

_DESCRIPTION = """Distil a text classifier with MixKD, and use what comes out.

A spec is a JSON file: the teacher's folder, the data, the recipe (mixkd.contract.spec.RunSpec).

Exit status: 0 where the command did its work; 1 after a refusal or a failure, which is told; 2 where the
command line itself is wrong; 143 after SIGTERM."""

_DATA = "a run's spec (.json), a file of labelled texts, or with --glue a folder"

_OF_A_FILE = ("format", "text", "text_pair")
_OF_DATA = ("glue", "set", *_OF_A_FILE, "label", "task", "max_length")


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = _Parser(
        prog="python -m mixkd", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = _command(commands, "run", "distil: the student and its report go to a folder")
    run.add_argument("spec", type=Path, metavar="SPEC", help="the run, as JSON")
    run.add_argument(
        "--dir", type=Path, required=True, metavar="DIR", help="where student/ and report.json go"
    )
    run.add_argument("--fresh", action="store_true", help="begin anew where --dir has an interrupted run")
    run.add_argument("--pipe", type=_writable, metavar="FD", help="send messages there, die with the parent")
    run.add_argument(
        "--lease", type=_readable, metavar="FD", help="make no step later than the time that stands there"
    )
    _device(run)
    _json(run)

    validate = _command(commands, "validate", "check the teacher, the data and the recipe of a run")
    validate.add_argument("spec", type=Path, metavar="SPEC", help="the run, as JSON")
    _json(validate)

    estimate = _command(commands, "estimate", "say what a run takes: steps, tokens, memory, time")
    estimate.add_argument("spec", type=Path, metavar="SPEC", help="the run, as JSON")
    _device(estimate)
    _json(estimate)

    evaluate = _command(commands, "evaluate", "score a model on labelled texts")
    evaluate.add_argument("model", type=Path, metavar="MODEL", help="a model's folder")
    evaluate.add_argument("data", type=Path, metavar="DATA", help=_DATA)
    _labelled_data(evaluate)
    _device(evaluate)
    _max_length(evaluate)
    _json(evaluate)

    predict = _command(commands, "predict", "answer texts: one JSON line each, in their order")
    predict.add_argument("model", type=Path, metavar="MODEL", help="a model's folder")
    predict.add_argument(
        "input", metavar="INPUT", help="a file of texts; - for standard input, one text a line"
    )
    predict.add_argument("--output", type=Path, metavar="FILE", help="instead of standard output")
    _columns(predict)
    _device(predict)
    _max_length(predict)
    predict.idle_where("input", "-", _OF_A_FILE, "it is for a file, and standard input has a text a line")

    export = _command(commands, "export", "write a model's folder anew, as plain transformers loads it")
    export.add_argument("model", type=Path, metavar="MODEL", help="a model's folder")
    export.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the folder to write")
    export.add_argument(
        "--onnx", type=Path, dest="data", metavar="DATA", help=f"ONNX too, checked on the last set of {_DATA}"
    )
    _labelled_data(export)
    _max_length(export)
    _json(export)
    export.idle_where("data", None, _OF_DATA, "it is for the data of --onnx DATA, which is not given")
    return top


class _Parser(argparse.ArgumentParser):
    """A parser that refuses flags which would do nothing."""

    _idle: tuple[str, object, Sequence[str], str] | None = None

    def idle_where(self, name: str, value: object, flags: Sequence[str], why: str) -> None:
        """Refuse these flags where the argument `name` has this value."""
        self._idle = name, value, flags, why

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        given, rest = super().parse_known_args(args, namespace)
        if self._idle is not None:
            name, value, flags, why = self._idle
            told = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(given, flag) is not None]
            if told and getattr(given, name) == value:
                self.error(f"{', '.join(told)}: {why}")
        return given, rest


def _length(text: str) -> int:
    """How many tokens a row may have; the most is the model's to say."""
    if not text.isascii() or not text.isdigit() or int(text) < 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 4")
    return int(text)


def _writable(text: str) -> int:
    """A descriptor that this process was given to write to."""
    try:
        os.write(int(text), b"")
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a descriptor that is open for writing") from None
    return int(text)


def _readable(text: str) -> int:
    """A descriptor of a file that holds the end of a lease, see `mixkd.lease`."""
    try:
        if os.fstat(int(text)).st_size == 8:
            return int(text)
    except (ValueError, OverflowError, OSError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a descriptor of a file with the end of a lease")


def _command(commands: "argparse._SubParsersAction[_Parser]", name: str, does: str) -> _Parser:
    return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="JSON on a terminal too")


def _listed(names: object) -> str:
    return ", ".join(get_args(names))


def _device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        metavar="DEVICE",
        default=os.environ.get("MIXKD_DEVICE"),
        help="cpu, cuda, cuda:1 …; else MIXKD_DEVICE, else a GPU where there is one",
    )


def _max_length(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--max-length", type=_length, metavar="N", help="tokens a row; else as the spec says, else 128"
    )


def _labelled_data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--glue", metavar="NAME", help="a task of GLUE, whose folder DATA is: sst2, mnli …")
    command.add_argument(
        "--set", action="append", metavar="NAME", help="a set of it, may be repeated; else all but train"
    )
    _columns(command)
    command.add_argument("--label", metavar="COLUMN", help="of a file; else label")
    command.add_argument(
        "--task",
        choices=get_args(Task),
        metavar="TASK",
        help=f"of a file: {_listed(Task)}; else as the model says",
    )


def _columns(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--format",
        choices=get_args(DataFormat),
        metavar="FORMAT",
        help=f"of a file: {_listed(DataFormat)}; else by its name",
    )
    command.add_argument("--text", metavar="COLUMN", help="of a file; else text")
    command.add_argument("--text-pair", metavar="COLUMN", help="of a file: the second text of a pair")
