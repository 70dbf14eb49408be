"""`python -m mixkd` as its supervisor and its user see it: messages, signals, exit statuses."""

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

from mixkd.contract.messages import Done, Failed, Message, Progress, decode
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


def start(spec: Path, pipe: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mixkd", "run", str(spec), "--dir", str(spec.parent / "out")]
    return subprocess.Popen(
        [*command, "--pipe", str(pipe), "--device", "cpu"],
        pass_fds=[pipe],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@contextlib.contextmanager
def running(spec: Path) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[Message]]]:
    """A trainer and the messages that come from it."""
    read, write = os.pipe()
    process = start(spec, write)
    os.close(write)
    with process, os.fdopen(read, "rb") as lines:
        try:
            yield process, map(decode, lines)
        finally:
            process.kill()


def until_training(messages: Iterator[Message]) -> None:
    assert any(isinstance(message, Progress) for message in messages)


def test_a_whole_run_tells_its_story_through_the_pipe_and_exits_with_0(
    spec_file: Callable[..., Path],
) -> None:
    with running(spec_file()) as (process, messages):
        told = list(messages)
        assert process.wait(30) == 0
    assert told[-1] == Done()
    out = spec_file().parent / "out"
    assert (out / "student" / "model.safetensors").is_file()
    assert json.loads((out / "report.json").read_text())["format"] == 1


def test_sigterm_ends_it_at_once_with_143_and_leaves_nothing_half_done(
    spec_file: Callable[..., Path],
) -> None:
    with running(spec_file(distil=LONG)) as (process, messages):
        until_training(messages)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 143
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert list((spec_file().parent / "out").iterdir()) == []


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


def test_a_typo_in_the_spec_is_refused_by_name(spec_file: Callable[..., Path]) -> None:
    path = spec_file()
    spec = json.loads(path.read_text())
    spec["recipe"]["epocs"] = 3
    path.write_text(json.dumps(spec))
    out = subprocess.run(
        [sys.executable, "-m", "mixkd", "validate", str(path)], capture_output=True, text=True, check=False
    )
    assert out.returncode == 1
    assert out.stderr.startswith("recipe.epocs: ")


def test_paths_in_a_spec_start_at_its_folder_and_validating_needs_no_torch(
    spec_file: Callable[..., Path], encoder_folder: Path
) -> None:
    path = spec_file()
    spec = json.loads(path.read_text())
    spec["teacher"] = os.path.relpath(encoder_folder, path.parent)
    spec["data"]["files"] = {
        split: os.path.relpath(file, path.parent) for split, file in spec["data"]["files"].items()
    }
    path.write_text(json.dumps(spec))
    code = (
        "import sys; from mixkd.__main__ import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, "validate", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        cwd="/",
    )
    assert out.returncode == 0, out.stderr
    assert '"layers": 4' in out.stdout
