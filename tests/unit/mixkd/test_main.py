"""`python -m mixkd run` as its supervisor and its user see it: messages, signals, exit statuses."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mixkd.__main__ import main
from mixkd.contract.messages import CheckpointWritten, Done, Failed, Message, Progress, decode
from mixkd.contract.signals import FINISH
from mixkd.contract.spec import RunSpec

MakeSpec = Callable[..., RunSpec]
LONG = {"epochs": 1000, "batch_size": 8}


@pytest.fixture
def spec_file(make_spec: MakeSpec, tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        path = tmp_path / "spec.json"
        path.write_text(make_spec(**changes).model_dump_json())
        return path

    return write


def start(spec: Path, pipe: int, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mixkd", "run", str(spec), "--dir", str(spec.parent / "out"), *flags]
    return subprocess.Popen(
        [*command, "--pipe", str(pipe), "--device", "cpu"],
        pass_fds=[pipe],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@contextlib.contextmanager
def running(spec: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[Message]]]:
    """A trainer and the messages that come from it."""
    read, write = os.pipe()
    process = start(spec, write, *flags)
    os.close(write)
    with process, os.fdopen(read, "rb") as lines:
        try:
            yield process, map(decode, lines)
        finally:
            process.kill()


def until_training(messages: Iterator[Message], phase: str = "teach") -> None:
    assert any(isinstance(message, Progress) and message.phase == phase for message in messages)


def test_a_whole_run_tells_its_story_through_the_pipe_and_exits_with_0(
    spec_file: Callable[..., Path],
) -> None:
    with running(spec_file()) as (process, messages):
        told = list(messages)
        assert process.wait(30) == 0
    assert told[-1] == Done()
    out = spec_file().parent / "out"
    assert (out / "student" / "model.safetensors").is_file()
    assert json.loads((out / "report.json").read_text())["format"] == 2


def test_sigterm_ends_it_soon_with_143_and_the_same_command_goes_on_from_there(
    spec_file: Callable[..., Path],
) -> None:
    spec = spec_file(distil={"epochs": 30, "batch_size": 8})
    out = spec.parent / "out"
    with running(spec) as (process, messages):
        until_training(messages, "distil")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        told = list(messages)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    [stopped_at] = [message.step for message in told if isinstance(message, CheckpointWritten)]
    assert not (out / "student").exists()
    assert not (out / "report.json").exists()

    with running(spec) as (process, messages):
        told = list(messages)
        assert process.wait(60) == 0
    steps = [message.step for message in told if isinstance(message, Progress) and message.phase == "distil"]
    assert min(steps) > stopped_at
    assert not any(isinstance(message, Progress) and message.phase == "teach" for message in told)
    assert (out / "report.json").is_file()


def test_fresh_begins_anew_where_a_run_was_interrupted(spec_file: Callable[..., Path]) -> None:
    spec = spec_file(teach={"epochs": 1000, "batch_size": 8})
    with running(spec) as (process, messages):
        until_training(messages)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    other = spec_file(distil={"epochs": 1, "batch_size": 8})
    with running(other) as (process, messages):
        failed = list(messages)[-1]
        assert process.wait(30) == 1
    assert isinstance(failed, Failed)
    assert failed.field == "dir"
    assert failed.remedy is not None
    assert "--fresh" in failed.remedy
    with running(other, "--fresh") as (process, messages):
        assert list(messages)[-1] == Done()
        assert process.wait(30) == 0


def test_sigusr1_ends_it_soon_with_a_student_and_a_report(spec_file: Callable[..., Path]) -> None:
    spec = spec_file(distil=LONG)
    with running(spec) as (process, messages):
        until_training(messages, "distil")
        process.send_signal(signal.SIGUSR1)
        assert list(messages)[-1] == Done()
        assert process.wait(30) == 0
    report = json.loads((spec.parent / "out" / "report.json").read_text())
    assert report["distil"]["stopped"] == "asked"
    assert report["distil"]["steps"] < 1000
    assert (spec.parent / "out" / "student" / "model.safetensors").is_file()


def test_it_ends_when_nobody_reads_its_pipe(spec_file: Callable[..., Path]) -> None:
    read, write = os.pipe()
    with start(spec_file(distil=LONG), write) as process:
        try:
            os.close(write)
            os.read(read, 1)
            os.close(read)
            assert process.wait(60) == 1
        finally:
            process.kill()


_PARENT = """
import subprocess, sys
pipe = int(sys.argv[1])
child = subprocess.Popen([*sys.argv[2:], "--pipe", sys.argv[1]], pass_fds=[pipe])
print(child.pid, flush=True)
child.wait()
"""


def test_it_dies_with_a_parent_that_is_killed(spec_file: Callable[..., Path]) -> None:
    """The pipe's reader, this test, lives on: only the parent's end can end the trainer."""
    spec = spec_file(distil=LONG)
    read, write = os.pipe()
    trainer = [sys.executable, "-m", "mixkd", "run", str(spec), "--dir", str(spec.parent / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(write), *trainer], stdout=subprocess.PIPE, pass_fds=[write]
    ) as parent:
        os.close(write)
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        with os.fdopen(read, "rb") as lines:
            until_training(map(decode, lines))
            parent.kill()
            try:
                gone, _ = psutil.wait_procs([child], timeout=5)
                assert gone
            finally:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def test_a_failure_is_told_and_the_exit_status_is_1(spec_file: Callable[..., Path]) -> None:
    with running(spec_file(student={"layers": 9})) as (process, messages):
        failed = list(messages)[-1]
        assert process.wait(30) == 1
    assert isinstance(failed, Failed)
    assert (failed.cause, failed.field) == ("invalid_input", "recipe.student.layers")


def test_without_a_pipe_messages_go_to_standard_output_and_refusals_to_standard_error_too(
    spec_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_file(student={"layers": 9}, max_length=64)
    with handlers_restored():
        assert main(["run", str(spec), "--dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert isinstance(decode(said.out.splitlines()[-1].encode()), Failed)
    assert [line.partition(":")[0] for line in said.err.splitlines()] == [
        "recipe.student.layers", "recipe.max_length",
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_refused(
    spec_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_file()
    with handlers_restored():
        assert main(["run", str(spec), "--dir", str(spec / "out")]) == 1
    assert capsys.readouterr().err.startswith("dir: cannot be written: Not a directory (")


@contextlib.contextmanager
def handlers_restored() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGUSR1, *FINISH.values())
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
