"""Data sets on the wire."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError, model_validator

from api.schemas.common import Name, ProblemDocument, Request
from api.schemas.imports import refusal_view
from core.datasets.models import Dataset
from core.imports import ImportStatus
from mixkd.contract.data_spec import Columns, DataFormat, LabelName, MetricName, Reading, Task
from mixkd.contract.rows import DatasetReport


class DatasetForm(Request):
    """The text parts of an upload: a name, and how the files are read. Lists and objects are JSON."""

    name: Name
    format: DataFormat = "jsonl"
    header: bool = True
    bad_rows: Literal["refuse", "skip"] = "refuse"
    columns: Json[Columns] = Columns()
    task: Task = "single_label"
    labels: Json[tuple[LabelName, ...]] | None = None
    label_names: Json[dict[str, LabelName]] = Field({})
    label_separator: str = Field("|", min_length=1, max_length=1)
    score_range: Json[tuple[float, float]] | None = None
    metrics: Json[tuple[MetricName, ...]] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "DatasetForm":
        try:
            self.reading()
        except ValidationError as error:  # what remains is about several fields at once
            raise ValueError("; ".join(found["msg"] for found in error.errors())) from None
        return self

    def reading(self) -> Reading:
        """How the files are read."""
        return Reading.model_validate(self.model_dump(exclude={"name"}))


class DatasetView(BaseModel):
    """A data set."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "ds_01k3v0pmz8w9r7t6y5u4i3o2pb",
                    "name": "TREC questions",
                    "status": "ready",
                    "refusal": None,
                    "format": "jsonl",
                    "columns": {"text": "text", "text_pair": None, "label": "label"},
                    "task": "single_label",
                    "reading": {},
                    "report": {
                        "labels": ["human", "place"],
                        "splits": {
                            "train": {
                                "rows": 3,
                                "label_counts": {"human": 2, "place": 1},
                                "characters": {"min": 15, "median": 18, "p95": 40, "max": 40},
                                "duplicate_rows": 0,
                            }
                        },
                        "texts_in_two_splits": 0,
                    },
                    "fingerprint": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
                    "created_at": "2025-06-01T12:00:00Z",
                }
            ]
        }
    )

    id: str
    name: str
    status: ImportStatus
    refusal: ProblemDocument | None = Field(description="why it was refused")
    format: DataFormat
    columns: Columns
    task: Task
    reading: dict[str, Any] = Field(description="what else was said of how to read it, apart from defaults")
    report: DatasetReport | None = Field(description="what it holds; null until it is ready")
    fingerprint: str | None = Field(description="SHA-256 of the files, their format and columns")
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetView":
        """The data set as its owner sees it."""
        columns: dict[str, Any] = {
            name: getattr(dataset, name) for name in cls.model_fields if name != "task"
        }
        task = dataset.read_as.task
        return cls.model_validate(columns | {"task": task, "refusal": refusal_view(dataset.refusal)})
