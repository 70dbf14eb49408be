"""The paper's table from one command, on a few rows: every cell once, and an interrupted run goes on."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.paper.__main__ import main

SMALL = ["--smoke", "--tasks", "movie", "tweets", "--shares", "1.0", "--seeds", "0", "--device", "cpu"]


def smoke(out: Path, *more: str) -> int:
    return main([*SMALL, "--out", str(out), *more])


def times(paths: Sequence[Path]) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("paper")
    assert smoke(out) == 0
    return out


def test_every_method_has_a_cell_with_all_that_decided_it(finished: Path) -> None:
    cells = [json.loads(path.read_text()) for path in (finished / "cells").iterdir()]
    assert {(cell["key"]["task"], cell["key"]["method"]) for cell in cells} == {
        (task, method)
        for task in ("movie", "tweets")
        for method in ("teacher", "FT", "KD", "TMKD", "SM+TMKD")
    }
    for cell in cells:
        assert cell["train_rows"] == 24
        assert cell["commit"]
        assert cell["versions"]["torch"]
        assert cell["recipe"]["max_length"] == 64
        assert len(cell["data"]["test"]["sha256"]) == 64
        assert "loss" in cell["scores"]["test"]
    losses = {cell["key"]["method"]: cell["recipe"]["loss"] for cell in cells}
    used = {
        method: {name for name in ("kd", "sm", "tmkd") if loss[f"{name}_weight"] == 1}
        for method, loss in losses.items()
        if method != "teacher"
    }
    assert used == {"FT": set(), "KD": {"kd"}, "TMKD": {"tmkd"}, "SM+TMKD": {"sm", "tmkd"}}


def test_a_rating_is_scored_in_its_own_unit(finished: Path) -> None:
    tweets = [json.loads(line) for line in (finished / "smoke" / "tweets" / "test.jsonl").open()]
    mean = sum(row["label"] for row in tweets) / len(tweets)
    constant = (sum((row["label"] - mean) ** 2 for row in tweets) / len(tweets)) ** 0.5
    teacher = json.loads((finished / "cells" / "tweets-1-teacher-0.json").read_text())
    assert teacher["scores"]["test"]["rmse"] == pytest.approx(constant, rel=0.35)


def test_the_table_has_the_methods_and_says_what_was_not_run(finished: Path) -> None:
    page = (finished / "table.md").read_text()
    for method in ("teacher", "FT", "KD", "TMKD", "SM+TMKD"):
        assert f"| 100 % | 24 | {method} |" in page
    assert "SM+TMKD+BT | not run: no translation model |" in page
    assert len(json.loads((finished / "table.json").read_text())["cells"]) == 10


def test_what_is_finished_is_not_trained_again(finished: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "again")
    cells = out / "cells"
    (cells / "movie-1-kd-0.json").unlink()
    before = times(sorted(cells.iterdir()))
    assert smoke(out) == 0
    after = times(sorted(cells.iterdir()))
    assert after.keys() - before.keys() == {"movie-1-kd-0.json"}
    assert {name: after[name] for name in before} == before
    folders = (out, finished)
    again, first = (json.loads((one / "cells" / "movie-1-kd-0.json").read_text()) for one in folders)
    assert again["scores"] == first["scores"]  # the teacher was kept, and the seed decides the rest


def test_another_budget_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke(finished, "--learning-rate", "1e-3") == 1
    assert "other settings" in capsys.readouterr().err
