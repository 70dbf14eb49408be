"""The benchmark for a GPU, small and on the CPU: it has to work where nobody could try it."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import main


def test_it_ends_with_the_same_bits_after_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--device", "cpu", "--layers", "2", "--hidden", "64", "--length", "16", "--rows", "128"]
    assert main(["--out", str(tmp_path / "out"), *tiny]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same_bits_again"]
    assert found["same_bits_resumed"]
    assert (found["steps"], found["layers"]) == (4, [2, 1])
    assert found["rows_per_second"] > 0
