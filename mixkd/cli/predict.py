"""`predict`: an answer a text, one JSON line each, while the texts still come."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mixkd.cli.labelled import file_data
from mixkd.cli.show import unwritable
from mixkd.contract.labels import BadValueError, text_of
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.readers import MAX_ROW_BYTES
from mixkd.contract.rows import Row, read_rows
from mixkd.predict import load, predict
from mixkd.prepare import find_device
from mixkd.printable import printable
from mixkd.quiet import quiet_libraries
from mixkd.training.control import Control


def main(given: argparse.Namespace) -> int:
    """Answer every text in its order.

    Raises:
        RefusedError: the model cannot be used, or a text cannot: the problem names its line. Answers to lines
            before it may be written by then; a file with a part of the answers is not left behind.
        NotFiniteError: the model answers with NaN or infinity.
    """
    Control().install()  # SIGTERM ends it after it has tidied up
    texts = _lines() if given.input == "-" else _rows(given)
    quiet_libraries()
    classifier = load(given.model, find_device(given.device), given.max_length)
    with _output(given.output) as output:
        for found in predict(classifier.model, classifier.tokenizer, texts, max_length=classifier.max_length):
            output.write(printable(found.model_dump_json()) + "\n")
    return 0


def _rows(given: argparse.Namespace) -> Iterator[Row]:
    path = Path(given.input)
    return read_rows(path, file_data(given, path), "input", labelled=False)


def _lines() -> Iterator[Row]:
    """The lines of standard input as texts."""
    if sys.stdin is None:  # a shell can close it
        raise RefusedError(Problem("input", "standard input is closed", "-", "name a file"))
    stream, number = sys.stdin.buffer, 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise _bad_line(number, f"longer than {MAX_ROW_BYTES} bytes")
        try:
            # What is not UTF-8 becomes lone surrogates, which the check of a text refuses.
            yield Row(
                number, text_of("text", line.decode("utf-8", "surrogateescape").rstrip("\r\n")), None, None
            )
        except BadValueError as error:
            raise _bad_line(number, str(error)) from None


def _bad_line(number: int, problem: str) -> RefusedError:
    return RefusedError(
        Problem("input", f"line {number}: {problem}", [number], "correct or remove this line")
    )


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears whole or not at all."""
    if path is None:
        yield sys.stdout
        return
    try:
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise unwritable("output", path, error) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except OSError as error:  # a full disk, or a folder that has the name
        Path(scratch).unlink(missing_ok=True)
        raise unwritable("output", path, error) from None
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
