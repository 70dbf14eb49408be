"""The `datasets` table."""

from datetime import datetime
from typing import Any, get_args

from sqlalchemy import CheckConstraint, ForeignKey, String, text
from sqlalchemy.orm import Mapped, mapped_column

from core.db import NOW, Base, one_of
from mixkd.contract.data_spec import DataFormat, Reading


class Dataset(Base):
    """A validated, immutable set of labelled texts.

    The files lie in storage under `datasets/ID/`, byte for byte as they were uploaded.
    """

    __tablename__ = "datasets"
    __table_args__ = (
        CheckConstraint("status IN ('importing', 'ready', 'refused')", name="status"),
        CheckConstraint("(status = 'ready') = (report IS NOT NULL)", name="ready_has_report"),
        CheckConstraint("(status = 'ready') = (fingerprint IS NOT NULL)", name="ready_has_print"),
        CheckConstraint("(status = 'refused') = (refusal IS NOT NULL)", name="refused_has_reason"),
        CheckConstraint(one_of("format", get_args(DataFormat)), name="format"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(16))
    refusal: Mapped[dict[str, Any] | None]
    format: Mapped[str] = mapped_column(String(16))
    columns: Mapped[dict[str, Any]]
    # What of mixkd.contract.data_spec.Reading is not its default, beside format and columns.
    reading: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    files: Mapped[dict[str, Any]]  # split -> {"path", "size", "sha256"}, path relative to datasets/ID/
    report: Mapped[dict[str, Any] | None]  # mixkd.contract.rows.DatasetReport
    fingerprint: Mapped[str | None] = mapped_column(String(64))  # sha256 over files and columns
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    @property
    def read_as(self) -> Reading:
        """How its files are read."""
        return Reading.model_validate({**self.reading, "format": self.format, "columns": self.columns})
