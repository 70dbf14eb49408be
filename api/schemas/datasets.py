"""Data sets on the wire."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from api.schemas.common import Name, ProblemDocument, Request
from api.schemas.imports import refusal_view
from core.datasets.models import Dataset
from core.imports import ImportStatus
from mixkd.contract.data_spec import Columns, DataFormat
from mixkd.contract.rows import DatasetReport


class DatasetForm(Request):
    """The text parts of an upload."""

    name: Name
    format: Literal["jsonl", "csv", "tsv"] = "jsonl"  # of DataFormat what the table takes
    columns: Json[Columns] = Columns()


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
    report: DatasetReport | None = Field(description="what it holds; null until it is ready")
    fingerprint: str | None = Field(description="SHA-256 of the files, their format and columns")
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> "DatasetView":
        """The data set as its owner sees it."""
        columns: dict[str, Any] = {name: getattr(dataset, name) for name in cls.model_fields}
        return cls.model_validate(columns | {"refusal": refusal_view(dataset.refusal)})
