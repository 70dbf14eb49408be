"""A mix of faults at random: `make chaos` for a minute."""

import subprocess
import sys

import pytest

from tests.support.cluster import ROOT


@pytest.mark.long
def test_a_minute_of_chaos() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "60", "--seed", "7"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    assert "0 violations" in run.stdout
