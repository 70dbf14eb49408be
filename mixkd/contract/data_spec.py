"""What data a run has: its files, their columns, and what kind of task they are."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mixkd.contract.strict import Strict

DataFormat = Literal["jsonl", "csv", "tsv", "parquet"]
Split = Literal["train", "validation", "test"]
SetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Task = Literal["single_label", "multi_label", "regression"]
MetricName = Literal[
    "accuracy", "macro_f1", "micro_f1", "f1", "matthews", "pearson", "spearman", "exact_match", "rmse"
]
LabelName = Annotated[str, Field(max_length=200, pattern=r"^[^\x00\s](?:[^\x00]*[^\x00\s])?$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]

METRICS: dict[Task, tuple[MetricName, ...]] = {
    "single_label": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1", "exact_match"),
    "regression": ("pearson", "spearman", "rmse"),
}
"""The metrics of each task; the first one chooses the best epoch. Of all but `rmse` more is better."""

_POSSIBLE: dict[Task, set[MetricName]] = {
    "single_label": {"accuracy", "macro_f1", "f1", "matthews"},
    "multi_label": {"micro_f1", "macro_f1", "exact_match"},
    "regression": {"pearson", "spearman", "rmse"},
}


class Columns(Strict):
    """Which column of a data file holds what. Without a header their names are 0, 1, 2 …"""

    text: ColumnName = "text"
    text_pair: ColumnName | None = None
    label: ColumnName = "label"


class Reading(Strict):
    """How labelled texts are read and what they are for: everything but where they lie."""

    format: DataFormat = "jsonl"
    header: bool = Field(True, description="whether the first line of CSV and TSV names the columns")
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="skip: leave out and count the few that a published file is known to have"
    )
    columns: Columns = Columns()
    task: Task = "single_label"
    labels: tuple[LabelName, ...] | None = Field(
        None, description="in the order of a new head's outputs; null: those of the training rows, sorted"
    )
    label_names: dict[str, LabelName] = Field(
        {}, description="what a label of the file is called, where the file has numbers: {'0': 'negative'}"
    )
    label_separator: str = Field(
        "|", min_length=1, max_length=1, description="between the labels of a multi-label row in CSV and TSV"
    )
    score_range: tuple[float, float] | None = Field(
        None, description="of regression: a score outside it is a bad row; null: any finite number"
    )
    metrics: tuple[MetricName, ...] | None = Field(
        None, description="the first one chooses the best epoch; null: those of the task"
    )

    @property
    def scored_by(self) -> tuple[MetricName, ...]:
        """The metrics, the one that chooses first."""
        return self.metrics or METRICS[self.task]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        possible = _POSSIBLE[self.task]
        if self.metrics is not None and (not self.metrics or set(self.metrics) - possible):
            raise ValueError(f"`metrics` of a {self.task} task are {', '.join(sorted(possible))}")
        if self.labels is not None and (self.task == "regression" or len(set(self.labels)) < 2):
            raise ValueError("`labels` names the classes of a classification, at least two")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("`labels` names a class twice")
        if "f1" in self.scored_by and (self.labels is None or len(self.labels) != 2):
            raise ValueError("`f1` is that of the second of two `labels`: name them in their order")
        if self.score_range is not None and not (
            self.task == "regression" and self.score_range[0] < self.score_range[1]
        ):
            raise ValueError("`score_range` is [lowest, highest], of a regression")
        if self.label_names and self.task == "regression":
            raise ValueError("`label_names` names the classes of a classification")
        if self.bad_rows == "skip" and self.format == "csv":
            raise ValueError("`bad_rows` of CSV cannot be skipped: a stray quote takes good rows with it")
        if not self.header and self.format not in ("csv", "tsv"):
            raise ValueError("`header` is for CSV and TSV")
        return self


class DataSpec(Reading):
    """Labelled texts: one file per set, all of one format.

    `train` is needed. `validation` chooses the best epoch; without it some training rows are set aside.
    `test` and sets of any other name are evaluated at the end.
    """

    files: dict[SetName, Path]
