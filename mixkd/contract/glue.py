"""The nine tasks of GLUE (Wang et al., ICLR 2019) by name: their files, columns, labels and official metrics.

The order of the labels is that of the hub's `nyu-mll/glue`, whose files have numbers where the original ones
have names. Test sets are left out, as their labels were never published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixkd.contract.data_spec import DataSpec, MetricName, SetName
from mixkd.contract.problems import Problem, RefusedError

MISMATCHED: SetName = "validation_mismatched"
"""MNLI's second validation set, of genres that its training set lacks; the matched one is `validation`."""


@dataclass(frozen=True)
class _Task:
    """`columns` and `original` name the texts, then the label: in the hub's files and in the original ones.

    `named`: whether the original files have the labels' names, and not their numbers.
    """

    folder: str  # of the original files
    labels: tuple[str, ...]
    metrics: tuple[MetricName, ...]
    columns: tuple[str, ...]
    original: tuple[str, ...]
    named: bool = False
    header: bool = True


_TASKS: Mapping[str, _Task] = {
    "cola": _Task(
        folder="CoLA",
        labels=("unacceptable", "acceptable"),
        metrics=("matthews",),
        columns=("sentence", "label"),
        original=("3", "1"),  # source, label, the author's own mark, sentence
        header=False,
    ),
    "sst2": _Task(
        folder="SST-2",
        labels=("negative", "positive"),
        metrics=("accuracy",),
        columns=("sentence", "label"),
        original=("sentence", "label"),
    ),
    "mrpc": _Task(
        folder="MRPC",
        labels=("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"),
        columns=("sentence1", "sentence2", "label"),
        original=("#1 String", "#2 String", "Quality"),
    ),
    "qqp": _Task(
        folder="QQP",
        labels=("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"),
        columns=("question1", "question2", "label"),
        original=("question1", "question2", "is_duplicate"),
    ),
    "stsb": _Task(
        folder="STS-B",
        labels=(),
        metrics=("pearson", "spearman"),
        columns=("sentence1", "sentence2", "label"),
        original=("sentence1", "sentence2", "score"),
    ),
    "mnli": _Task(
        folder="MNLI",
        labels=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
        columns=("premise", "hypothesis", "label"),
        original=("sentence1", "sentence2", "gold_label"),
        named=True,
    ),
    "qnli": _Task(
        folder="QNLI",
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        columns=("question", "sentence", "label"),
        original=("question", "sentence", "label"),
        named=True,
    ),
    "rte": _Task(
        folder="RTE",
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        columns=("sentence1", "sentence2", "label"),
        original=("sentence1", "sentence2", "label"),
        named=True,
    ),
    "wnli": _Task(
        folder="WNLI",
        labels=("not_entailment", "entailment"),
        metrics=("accuracy",),
        columns=("sentence1", "sentence2", "label"),
        original=("sentence1", "sentence2", "label"),
    ),
}

GLUE = tuple(_TASKS)
"""The names of the tasks."""


def glue_data(task: str, folder: Path) -> DataSpec:
    """The data of one task, wherever its files are: in the folder, or in the task's own folder within it.

    The original TSV files and the hub's Parquet files are read. A few rows of QQP cannot be used: in the
    original training file some lines are torn apart by a line end or a tab within a question, and two
    questions are empty in either layout. As the official loaders do, such rows are left out; the data
    set's report counts them.

    Raises:
        RefusedError: with the field `data.glue` for an unknown task, or `data.folder` and all that was looked
            for.
    """
    if task not in _TASKS:
        raise RefusedError(
            Problem("data.glue", "there is no such task in GLUE", task, f"use one of {', '.join(GLUE)}")
        )
    known = _TASKS[task]
    layouts = _layouts(task, known)
    for names, layout in layouts:
        for place in (folder, folder / known.folder, folder / task):
            files = {set_name: place / name for set_name, name in names.items()}
            if all(path.is_file() for path in files.values()):
                return DataSpec.model_validate({"files": files, **_common(known), **layout})
    wanted = "; or ".join(", ".join(names.values()) for names, _ in layouts)
    raise RefusedError(
        Problem("data.folder", f"the files of {task} are not there; looked for {wanted}: in it, in "
                f"{known.folder} and in {task} within it", folder.name, "check the folder's name")
    )  # fmt: skip


def _layouts(task: str, known: _Task) -> list[tuple[dict[SetName, str], dict[str, Any]]]:
    """What may be there, the best first: the files of each set, and how they are read."""
    names = {str(number): label for number, label in enumerate(known.labels)}
    tsv: dict[str, Any] = {
        "format": "tsv",
        "header": known.header,
        "columns": _columns(known.original),
        "label_names": {} if known.named else names,
    }
    parquet: dict[str, Any] = {"format": "parquet", "columns": _columns(known.columns), "label_names": names}
    if task == "mnli":
        return [
            (_sets("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"), tsv),
            (_sets(*map(_shard, ("train", "validation_matched", "validation_mismatched"))), parquet),
        ]
    layouts = [
        (_sets("train.tsv", "dev.tsv"), tsv),
        (_sets(*map(_shard, ("train", "validation"))), parquet),
    ]
    if task == "mrpc":  # as it was before GLUE took some of its rows out for validation
        layouts.append((_sets("msr_paraphrase_train.txt"), tsv))
    return layouts


def _common(known: _Task) -> dict[str, Any]:
    shared = {"metrics": known.metrics, "bad_rows": "skip"}
    if known.labels:
        return {**shared, "task": "single_label", "labels": known.labels}
    return {**shared, "task": "regression", "score_range": (0, 5)}


def _columns(names: Sequence[str]) -> dict[str, str | None]:
    *texts, label = names
    return {"text": texts[0], "text_pair": texts[1] if len(texts) == 2 else None, "label": label}


def _sets(*files: str) -> dict[SetName, str]:
    return dict(zip(("train", "validation", MISMATCHED), files, strict=False))


def _shard(name: str) -> str:
    return f"{name}-00000-of-00001.parquet"
