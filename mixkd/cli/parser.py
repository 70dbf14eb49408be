"""What `python -m mixkd` understands: its commands and their flags."""

import argparse
import os
from pathlib import Path
from typing import get_args

from mixkd.contract.data_spec import DataFormat, Task

_DESCRIPTION = """Distil a text classifier with MixKD, and use what comes out.

A spec is a JSON file: the teacher's folder, the data, the recipe (mixkd.contract.spec.RunSpec).

Exit status: 0 where the command did its work; 1 after a refusal or a failure, which is told; 2 where the
command line itself is wrong; 143 after SIGTERM."""

_DATA = "a run's spec (.json), a file of labelled texts, or with --glue a folder"


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m mixkd", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = _command(commands, "run", "distil: the student and its report go to a folder")
    run.add_argument("spec", type=Path, metavar="SPEC", help="the run, as JSON")
    run.add_argument(
        "--dir", type=Path, required=True, metavar="DIR", help="where student/ and report.json go"
    )
    run.add_argument("--fresh", action="store_true", help="begin anew where --dir has an interrupted run")
    run.add_argument("--pipe", type=int, metavar="FD", help="send messages there, die with the parent")
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

    export = _command(commands, "export", "write a model's folder anew, as plain transformers loads it")
    export.add_argument("model", type=Path, metavar="MODEL", help="a model's folder")
    export.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the folder to write")
    export.add_argument(
        "--onnx", type=Path, dest="data", metavar="DATA", help=f"ONNX too, checked on the last set of {_DATA}"
    )
    _labelled_data(export)
    _max_length(export)
    _json(export)
    return top


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
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
        "--max-length", type=int, metavar="N", help="tokens a row; else as the spec says, else 128"
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
