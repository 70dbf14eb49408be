"""The trainer as a process: what it says, how it ends, what it may know, and that nothing of it is left."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mixkd.contract.messages import Message
from tests.support.fake_trainer import Scripts
from tests.support.waiting import alive, until
from worker.halt import Halt, Halted, Reason, boot_seconds
from worker.trainer_process import Exit, environment, failure, presentable, run_trainer

GRACE = {Reason.CANCEL: 0.5, Reason.SHUTDOWN: 0.5}
Say = Callable[[dict[str, Any]], list[Any]]


def ok(_: Message | None) -> None:
    """Take any message."""


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    folder = tmp_path / "scripts"
    folder.mkdir()
    return Scripts(folder)


@pytest.fixture
def halt() -> Halt:
    return Halt(boot_seconds() + 300)


def run(
    scripts: Scripts, halt: Halt, *steps: list[Any], on_message: Callable[[Message | None], None] = ok
) -> Exit:
    folder = scripts.folder.parent
    scripts.write(0, *steps)
    spec = folder / "spec.json"
    spec.write_text(json.dumps({"recipe": {"seed": 0}}))
    return run_trainer(scripts.command, spec, folder / "run", halt, on_message, grace=GRACE)


def say(**message: Any) -> list[Any]:
    return ["say", message]


def test_messages_arrive_in_order_and_the_end_is_known(scripts: Scripts, halt: Halt) -> None:
    heard: list[Message] = []
    end = run(
        scripts,
        halt,
        ["phase", "teach"],
        say(type="progress", phase="teach", step=1, steps=2, loss=0.5),
        say(type="done"),
        on_message=lambda message: heard.append(message) if message else None,
    )
    assert [message.type for message in heard] == ["phase", "progress", "done"]
    assert (end.code, end.done, end.failed) == (0, True, None)


def test_what_is_no_message_is_passed_over(scripts: Scripts, halt: Halt) -> None:
    heard: list[Message] = []
    end = run(
        scripts,
        halt,
        ["babble", "Warning: something\n" + "x" * 3000 + "\n"],
        ["babble", '{"type": "metric", "phase": "teach", "step": 1, "values": {"loss": null}}\n'],
        say(type="done"),
        on_message=lambda message: heard.append(message) if message else None,
    )
    assert end.done
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("steps", "cause", "detail"),
    [
        (
            [["say", {"type": "failed", "cause": "diverged", "detail": "NaN at step 3"}], ["exit", 1]],
            "diverged",
            "NaN at step 3",
        ),
        ([["signal", int(signal.SIGKILL)]], "worker_lost", "SIGKILL"),
        ([["signal", int(signal.SIGTERM)]], "worker_lost", "SIGTERM"),
        ([["exit", 143]], "worker_lost", "SIGTERM"),
        ([["signal", int(signal.SIGSEGV)]], "internal", "SIGSEGV"),
        ([["exit", 3]], "internal", "exit status 3"),
        ([], "internal", "exit status 0"),
    ],
)
def test_every_end_has_a_cause(
    scripts: Scripts, halt: Halt, steps: list[list[Any]], cause: str, detail: str
) -> None:
    why = failure(run(scripts, halt, *steps))
    assert why.cause == cause
    assert detail in why.detail


def test_a_kill_for_memory_is_told_apart_by_the_kernels_count() -> None:
    end = Exit(code=-9, hung=False, done=False, failed=None, memory_ran_out=True, log_tail="")
    assert failure(end).cause == "out_of_memory"


def test_the_last_lines_of_the_log_are_kept(scripts: Scripts, halt: Halt) -> None:
    end = run(scripts, halt, ["print", "\n".join(f"line {n}" for n in range(500)) + "\0"], ["exit", 1])
    lines = end.log_tail.splitlines()
    assert lines[0] == "line 300"
    assert len(lines) == 200
    assert "\0" not in end.log_tail


def test_what_is_shown_of_the_log_names_no_folder_of_this_machine() -> None:
    log = """  File "/srv/venv/lib/python3.11/site-packages/torch/x.py", line 3, in forward
OSError: /var/tmp/mixkd/job_1-2/teacher/config.json: gone; read https://docs.example/a/b, 3/4 done
"""
    assert (
        presentable(log)
        == """  File "…/x.py", line 3, in forward
OSError: …/config.json: gone; read https://docs.example/a/b, 3/4 done
"""
    )


def test_it_knows_no_secret(scripts: Scripts, halt: Halt, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "MIXKD_DATABASE_URL": "s3cret",
        "MIXKD_HUB_TOKEN": "s3cret",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "GOOGLE_APPLICATION_CREDENTIALS": "s3cret",
        "AZURE_STORAGE_ACCOUNT_KEY": "s3cret",
        "PGPASSWORD": "s3cret",
        "HF_TOKEN": "s3cret",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run(scripts, halt, ["environment", "env"])
    seen = json.loads(scripts.left("env").read_text())
    assert "s3cret" not in json.dumps(seen)
    assert seen["CUDA_VISIBLE_DEVICES"] == "0"
    assert seen["HF_HUB_OFFLINE"] == "1"
    assert seen["HOME"] == str(scripts.folder.parent / "run")


def test_the_environment_is_a_list_of_what_is_allowed(tmp_path: Path) -> None:
    assert "TOKEN_OF_TOMORROW" not in environment({"TOKEN_OF_TOMORROW": "x", "PATH": "/bin"}, tmp_path)


def halted(
    scripts: Scripts, halt: Halt, reason: Reason, *steps: list[Any]
) -> tuple[Exit | None, float, list[int]]:
    """Run steps that leave `ready`, halt then; the end, how long it took, and the process."""
    ends: list[Exit] = []
    thread = Thread(target=lambda: ends.append(run(scripts, halt, *steps)))
    thread.start()
    until(scripts.left("ready").exists)
    asked = boot_seconds()
    halt.ask(reason)
    thread.join(60)
    return (ends[0] if ends else None), boot_seconds() - asked, scripts.started(0)


def test_a_request_ends_it_with_sigterm(scripts: Scripts, halt: Halt) -> None:
    end, _, [pid] = halted(scripts, halt, Reason.CANCEL, ["leave", "ready"], ["hang"])
    assert end is not None
    assert end.code == -signal.SIGTERM
    assert not alive(pid)


def test_a_trainer_that_will_not_stop_is_killed_after_the_grace(scripts: Scripts, halt: Halt) -> None:
    end, seconds, _ = halted(scripts, halt, Reason.CANCEL, ["ignore SIGTERM"], ["leave", "ready"], ["hang"])
    assert end is not None
    assert end.code == -signal.SIGKILL
    assert 0.5 <= seconds < 30


def test_a_lost_lease_gives_no_grace(scripts: Scripts, halt: Halt) -> None:
    end, _, _ = halted(scripts, halt, Reason.LEASE_LOST, ["leave", "ready"], ["hang"])
    assert end is not None
    assert end.code == -signal.SIGKILL


def test_it_is_killed_while_a_message_cannot_be_written(scripts: Scripts) -> None:
    """The database does not answer, and the lease runs out meanwhile."""
    halt = Halt(boot_seconds() + 1)
    pids: list[int] = []

    def stuck(message: Message | None) -> None:
        if message is not None:
            pids.extend(scripts.started(0))
            until(lambda: not alive(pids[0]))

    end = run(scripts, halt, ["phase", "teach"], ["hang"], on_message=stuck)
    assert end.code == -signal.SIGKILL
    with pytest.raises(Halted):
        halt.check()


def test_an_error_in_the_listener_ends_it(scripts: Scripts, halt: Halt) -> None:
    def broken(message: Message | None) -> None:
        if message is not None:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run(scripts, halt, ["phase", "teach"], ["hang"], on_message=broken)
    [pid] = scripts.started(0)
    assert not alive(pid)


UNKILLABLE = """
import logging, sys
from pathlib import Path
from worker import trainer_process
from worker.halt import Halt, Reason, boot_seconds

scripts, halted = Path(sys.argv[1]), sys.argv[2] == "halted"
logging.basicConfig()
trainer_process._signal = lambda *_: None  # as of a process in an uninterruptible sleep
trainer_process.KILLED_SECONDS = 0.3
halt = Halt(boot_seconds() + 300)

def take(message):
    if message is not None:
        if not halted:
            raise RuntimeError
        halt.ask(Reason.CANCEL)

spec, folder = scripts.parent / "spec.json", scripts.parent / "run"
trainer_process.run_trainer(sys.argv[3:], spec, folder, halt, take, grace={})
"""


@pytest.mark.parametrize("why", ["halted", "in error"])
def test_one_that_cannot_be_killed_takes_the_worker_with_it(scripts: Scripts, why: str) -> None:
    """Else its job would be renewed for ever."""
    scripts.write(0, ["phase", "teach"], ["hang"])
    (scripts.folder.parent / "spec.json").write_text(json.dumps({"recipe": {"seed": 0}}))
    worker = subprocess.run(
        [sys.executable, "-c", UNKILLABLE, str(scripts.folder), why, *scripts.command],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    [pid] = scripts.started(0)
    assert worker.returncode == 1
    assert f"the trainer (process {pid}) cannot be killed" in worker.stderr


@pytest.mark.parametrize("last", [["exit", 0], ["signal", int(signal.SIGKILL)]])
def test_its_children_end_with_it(scripts: Scripts, halt: Halt, last: list[Any]) -> None:
    run(scripts, halt, ["child", "child"], last)
    until(lambda: not alive(int(scripts.left("child").read_text())))


def test_it_succeeded_even_if_it_crashes_on_its_way_out(scripts: Scripts, halt: Halt) -> None:
    end = run(scripts, halt, say(type="done"), ["signal", int(signal.SIGSEGV)])
    assert end.done


def test_a_trainer_that_falls_silent_is_not_waited_for(
    scripts: Scripts, halt: Halt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.trainer_process.EXIT_SECONDS", 0.3)
    why = failure(run(scripts, halt, ["close the pipe"], ["hang"]))
    assert (why.cause, why.exit_code) == ("internal", -9)
