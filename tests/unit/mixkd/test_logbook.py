"""What was logged is there again, whatever a kill cut short."""

from pathlib import Path

import pytest

from mixkd.contract.messages import Metric, encode
from mixkd.logbook import Logbook


@pytest.mark.parametrize("torn", [1, 20])
def test_a_torn_line_costs_no_other_one(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = [Metric(phase="distil", step=step, values={"loss": 1.0}) for step in (1, 2, 3)]
    path.write_bytes(encode(metrics[0]) + encode(metrics[1])[:-torn])
    logbook = Logbook(path)
    logbook.note(metrics[2])
    steps = [point.step for point in logbook.points((), 0, {"distil": 3})]
    assert steps == ([1, 2, 3] if torn == 1 else [1, 3])  # a line without its end is a whole one
