"""The `models` table."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db import NOW, Base


class Model(Base):
    """A teacher or a student. Its files lie in storage under `prefix`, named by `files`."""

    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("kind IN ('teacher', 'student')", name="kind"),
        CheckConstraint("status IN ('importing', 'ready', 'refused')", name="status"),
        CheckConstraint("(status = 'ready') = (files IS NOT NULL)", name="ready_has_files"),
        CheckConstraint("(status = 'ready') = (info IS NOT NULL)", name="ready_has_info"),
        CheckConstraint("(status = 'refused') = (refusal IS NOT NULL)", name="refused_has_reason"),
        CheckConstraint("(kind = 'student') = (source IS NULL)", name="teacher_has_source"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(ForeignKey("owners.id"), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    source: Mapped[str | None] = mapped_column(String(1000))  # hf://…, path:…, upload:; None: a job
    status: Mapped[str] = mapped_column(String(16))
    refusal: Mapped[dict[str, Any] | None]
    prefix: Mapped[str] = mapped_column(String(200))
    files: Mapped[dict[str, Any] | None]  # path -> {"size", "sha256"}
    info: Mapped[dict[str, Any] | None]  # mixkd.contract.folder.ModelInfo
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
