"""What is learned: the texts that can be had without a hub, or GLUE from a folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import materials
from demo.materials import trec
from mixkd.contract.data_spec import DataSpec, MetricName, SetName, Split, Task
from mixkd.contract.glue import MISMATCHED, glue_data
from mixkd.contract.problems import Problem, RefusedError


@dataclass(frozen=True)
class Benchmark:
    """A task of the table. The first of `columns` is the one that differences are taken of."""

    name: str
    title: str
    data: DataSpec
    columns: tuple[tuple[SetName, MetricName], ...]
    max_length: int
    counterpart: str | None = None
    """The paper's column to put beside it."""


def _trec_fine() -> dict[Split, Path]:
    return trec(fine=True)


_FETCH: dict[str, Callable[[], dict[Split, Path]]] = {
    "movie": materials.movie_reviews,
    "trec6": trec,
    "trec50": _trec_fine,
    "tweets": materials.tweets,
}
_TITLES = {
    "movie": "film-review sentences, negative or positive",
    "trec6": "TREC questions, 6 classes",
    "trec50": "TREC questions, 50 classes",
    "tweets": "tweets, rated from −4 to 4",
}
OWN = tuple(_FETCH)
"""Tasks that need no hub."""


def own(name: str) -> Benchmark:
    """A task of `OWN`, fetched at its first use."""
    task: Task = "regression" if name == "tweets" else "single_label"
    metrics: tuple[MetricName, ...] = ("pearson", "rmse") if task == "regression" else ("accuracy",)
    score_range = (-4.0, 4.0) if task == "regression" else None
    return Benchmark(
        name,
        _TITLES[name],
        DataSpec(files=dict(_FETCH[name]()), task=task, metrics=metrics, score_range=score_range),
        tuple(("test", metric) for metric in metrics),
        max_length=64,
        counterpart="SST-2" if name == "movie" else None,
    )


_COUNTERPARTS = {
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "mnli": "MNLI-m",
    "qnli": "QNLI",
    "rte": "RTE",
}
_DEV: dict[SetName, SetName] = {"validation": "dev", MISMATCHED: "dev_mismatched"}


def glue(name: str, folder: Path | None) -> Benchmark:
    """A task of GLUE. As in the paper the dev set is scored; it does not choose the best epoch, though.

    That is done by a tenth of the training rows, which the run sets aside.

    Raises:
        RefusedError: the files are not there.
    """
    if folder is None:
        raise RefusedError(Problem("--glue", "it says where the files of GLUE's tasks are", None, "add it"))
    data = glue_data(name, folder)
    if "validation" not in data.files:
        raise RefusedError(Problem("--glue", f"{name} has no dev set there", folder.name, "add it"))
    files = {_DEV.get(set_name, set_name): path for set_name, path in data.files.items()}
    return Benchmark(
        name,
        f"{name} of GLUE, the dev set",
        data.model_copy(update={"files": files}),
        tuple((found, metric) for found in files if found != "train" for metric in data.scored_by),
        max_length=128,
        counterpart=_COUNTERPARTS.get(name),
    )


def shortened(task: Benchmark, folder: Path, rows: int = 24) -> Benchmark:
    """The first rows of each file, and of those to evaluate only such that have a label to train on."""
    labels: set[object] = set()
    files = dict(task.data.files)
    for name in sorted(files, key=lambda name: name != "train"):
        found = [json.loads(line) for line in files[name].read_text(encoding="utf-8").splitlines()]
        if name == "train":
            labels = {row["label"] for row in found[:rows]}
        elif task.data.task != "regression":
            found = [row for row in found if row["label"] in labels]
        files[name] = folder / task.name / f"{name}.jsonl"
        files[name].parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in found[:rows])
        files[name].write_text("".join(lines), encoding="utf-8")
    return replace(task, data=task.data.model_copy(update={"files": files}))
