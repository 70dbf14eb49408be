"""Models on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.schemas.common import FileEntry, Name, ProblemDocument, Request
from api.schemas.imports import refusal_view
from core.imports import ImportStatus
from core.models.models import Model
from mixkd.contract.folder import ModelInfo

Source = Annotated[str, StringConstraints(min_length=1, max_length=900, pattern=r"^[^\x00-\x1f\x7f]*$")]


class ModelCreate(Request):
    """A teacher by reference."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "MiniLM", "source": "hf://sentence-transformers/all-MiniLM-L6-v2@main"},
                {"name": "our BERT", "source": "path:/models/our-bert"},
            ]
        }
    )

    name: Name
    source: Source = Field(description="hf://org/name@revision, or path:/folder under one of the model roots")


class ModelForm(Request):
    """The text parts of an upload."""

    name: Name


class ModelView(BaseModel):
    """A model: a teacher that was registered or a student that a job produced."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "mdl_01k3v0q2c7y6j5h4g3f2d1s0aq",
                    "name": "MiniLM",
                    "kind": "teacher",
                    "source": "hf://sentence-transformers/all-MiniLM-L6-v2"
                    "@c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
                    "status": "ready",
                    "refusal": None,
                    "info": {
                        "family": "bert",
                        "layers": 6,
                        "hidden_size": 384,
                        "vocab_size": 30522,
                        "parameters": 22713216,
                        "max_positions": 512,
                        "labels": None,
                    },
                    "files": [
                        {
                            "path": "config.json",
                            "size": 612,
                            "sha256": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                        }
                    ],
                    "created_at": "2025-06-01T12:00:00Z",
                }
            ]
        }
    )

    id: str
    name: str
    kind: Literal["teacher", "student"]
    source: str | None = Field(description="with the commit that was fetched, for a hub; null for a student")
    status: ImportStatus
    refusal: ProblemDocument | None = Field(description="why it was refused")
    info: ModelInfo | None = Field(description="what it is; null until it is ready")
    files: list[FileEntry] = Field(description="what is kept of it: what loading it needs")
    created_at: datetime

    @classmethod
    def of(cls, model: Model) -> "ModelView":
        """The model as its owner sees it."""
        columns: dict[str, Any] = {name: getattr(model, name) for name in cls.model_fields}
        files = FileEntry.manifest(model.files or {})
        return cls.model_validate(columns | {"refusal": refusal_view(model.refusal), "files": files})
