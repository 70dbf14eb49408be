"""GLUE's tasks as the paper's table has them: the dev sets are scored, and choose nothing."""

import json
from pathlib import Path

import pytest

from benchmarks.paper import tasks
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import RefusedError


def files(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder.parent


def test_both_dev_sets_of_mnli_are_scored_and_neither_chooses_the_best_epoch(tmp_path: Path) -> None:
    glue = files(tmp_path / "MNLI", "train.tsv", "dev_matched.tsv", "dev_mismatched.tsv")
    mnli = tasks.glue("mnli", glue)
    assert {name: path.name for name, path in mnli.data.files.items()} == {
        "train": "train.tsv",
        "dev": "dev_matched.tsv",
        "dev_mismatched": "dev_mismatched.tsv",
    }
    assert mnli.columns == (("dev", "accuracy"), ("dev_mismatched", "accuracy"))
    assert mnli.counterpart == "MNLI-m"


def test_a_task_has_all_its_official_metrics(tmp_path: Path) -> None:
    mrpc = tasks.glue("mrpc", files(tmp_path / "MRPC", "train.tsv", "dev.tsv"))
    assert mrpc.columns == (("dev", "f1"), ("dev", "accuracy"))


def test_glue_without_its_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="where the files"):
        tasks.glue("sst2", None)
    with pytest.raises(RefusedError, match="not there"):
        tasks.glue("sst2", tmp_path)
    with pytest.raises(RefusedError, match="no dev set"):
        tasks.glue("mrpc", files(tmp_path / "MRPC", "msr_paraphrase_train.txt"))


def test_a_smoke_test_asks_for_no_label_that_it_did_not_teach(tmp_path: Path) -> None:
    rows = {"train": ["a", "b", "c"], "test": ["c", "a", "b"]}
    for name, labels in rows.items():
        lines = (json.dumps({"text": f"{label} {name}", "label": label}) + "\n" for label in labels)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    data = DataSpec(files={name: tmp_path / f"{name}.jsonl" for name in rows})
    task = tasks.Benchmark("t", "t", data, (("test", "accuracy"),), max_length=8)
    small = tasks.shortened(task, tmp_path / "small", rows=2).data.files
    labels = {name: [json.loads(line)["label"] for line in path.open()] for name, path in small.items()}
    assert labels == {"train": ["a", "b"], "test": ["a", "b"]}
