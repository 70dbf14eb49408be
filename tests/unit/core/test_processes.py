"""Children that end when told, one way or another, and logs that stay small."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core import processes

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def _python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def test_stop_is_gentle_first_and_not_for_ever() -> None:
    gentle, stubborn = _python("import time; time.sleep(60)"), _python(STUBBORN)
    assert stubborn.stdout is not None
    stubborn.stdout.readline()
    begun = time.monotonic()
    assert processes.stop(gentle, (signal.SIGTERM, 30)) == -signal.SIGTERM
    assert processes.stop(stubborn, (signal.SIGTERM, 0.2)) == -signal.SIGKILL
    assert time.monotonic() - begun < 25  # not the 30 that the gentle one was given
    assert processes.stop(gentle, (signal.SIGTERM, 30)) == -signal.SIGTERM, (
        "stopping it again changes nothing"
    )


def test_several_stop_at_the_same_time() -> None:
    stubborn = [_python(STUBBORN) for _ in range(10)]
    for process in stubborn:
        assert process.stdout is not None
        process.stdout.readline()
    begun = time.monotonic()
    processes.stop_together([(process, [(signal.SIGTERM, 2.0)]) for process in stubborn])
    assert 2.0 <= time.monotonic() - begun < 15  # one after the other they would take 20
    assert [process.returncode for process in stubborn] == [-signal.SIGKILL] * 10


def test_a_child_leads_a_session_of_its_own_and_sees_only_what_it_is_given(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "child.log"
    with processes.open_log(log) as output:
        code = "import os; print(os.getsid(0) == os.getpid(), sorted(os.environ), os.getcwd())"
        child = processes.spawn(
            [sys.executable, "-c", code],
            death_signal=signal.SIGKILL,
            output=output,
            env={"A": "1", "LC_ALL": "C"},
            cwd=tmp_path,
        )
    assert child.wait(30) == 0
    assert processes.tail(log) == f"True ['A', 'LC_ALL'] {tmp_path}"


def test_a_program_that_is_not_there_is_an_exit_status_and_a_line_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    with processes.open_log(log) as output:
        child = processes.spawn([tmp_path / "none"], death_signal=signal.SIGKILL, output=output)
    assert child.wait(30) != 0
    assert processes.tail(log) == f"cannot start {tmp_path / 'none'}: No such file or directory"


def test_a_log_that_has_grown_large_is_moved_aside_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOG_LIMIT", 10)
    path = tmp_path / "a.log"
    with processes.open_log(path) as log:
        log.write(b"0123456789\n")
        log.flush()
        processes.rotate(path)
        log.write(b"new\n")
        log.flush()
        processes.rotate(path)
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "a.log.1").read_bytes() == b"0123456789\n"


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    assert processes.tail(path) == ""
    path.write_text("\n".join(map(str, range(100))))
    assert processes.tail(path, lines=2) == "98\n99"
