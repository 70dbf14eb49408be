"""What an operator finds in the log, and what nobody may find there."""

import json
import subprocess
import sys

WRITE = """
import logging, warnings
from core import log
log.configure({options})
{body}
"""


def _lines(body: str, options: str = "") -> list[str]:
    """What a process writes that sets up its log and runs `body`."""
    result = subprocess.run(
        [sys.executable, "-c", WRITE.format(options=options, body=body)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_a_line_is_json_with_time_level_logger_and_what_was_bound() -> None:
    bound, free = _lines(
        "with log.bound(job_id='job_1', attempt=2):\n"
        "    logging.getLogger('worker').warning('lost %s', 'it')\n"
        "logging.getLogger('worker').info('later', extra={'step': 3})"
    )
    line = json.loads(bound)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "lost it",
        "level": "warning",
        "logger": "worker",
        "job_id": "job_1",
        "attempt": 2,
    }
    assert json.loads(free)["step"] == 3
    assert "job_id" not in json.loads(free)


def test_an_exception_stays_on_one_line_with_its_traceback() -> None:
    (line,) = _lines("try: 1 / 0\nexcept ZeroDivisionError: logging.exception('no')")
    assert "ZeroDivisionError" in json.loads(line)["exception"]


def test_debug_lines_are_left_out_and_warnings_are_kept() -> None:
    (line,) = _lines("logging.debug('noise'); warnings.warn('careful')")
    assert "careful" in json.loads(line)["event"]


def test_a_terminal_gets_plain_lines() -> None:
    (line,) = _lines("logging.getLogger('worker').info('hello')", options="json=False")
    assert "hello" in line
    assert not line.startswith("{")


def test_no_secret_is_written_wherever_it_stands() -> None:
    key, token = "mixkd_" + "a1B2-" * 8, "hf_" + "Zz9" * 10
    body = (
        f"logging.info('key %s', {key!r})\n"
        f"logging.info('token', extra={{'token': {token!r}}})\n"
        "logging.info('Authorization: Bearer s3cr3t-s3cr3t')\n"
        "try: raise ValueError('postgresql+psycopg://user:s3cr3t@db.example/mixkd')\n"
        "except ValueError: logging.exception('failed')"
    )
    for options in ("json=True", "json=False"):
        text = "\n".join(_lines(body, options))
        assert key not in text
        assert token not in text
        assert "s3cr3t" not in text
        assert "user:***@db.example" in text


def test_a_traceback_shows_no_local_variables() -> None:
    body = (
        "def f(password):\n    raise ValueError('no')\n"
        "try: f('hun' + 'ter2')\nexcept ValueError: logging.exception('x')"
    )
    for options in ("json=True", "json=False"):
        assert "hunter2" not in "\n".join(_lines(body, options))


def test_importing_sets_nothing_up() -> None:
    code = "import logging, core.log; assert not logging.getLogger().handlers"
    subprocess.run([sys.executable, "-c", code], check=True)
