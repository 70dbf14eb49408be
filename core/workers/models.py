"""The `workers` table."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from core.db import NOW, Base


class Worker(Base):
    """One worker process that has reported in; `seen_at` says whether it still lives."""

    __tablename__ = "workers"
    __table_args__ = (CheckConstraint("gpus >= 0", name="gpus"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    device: Mapped[str] = mapped_column(String(100))  # "cpu", or the GPUs' name
    gpus: Mapped[int] = mapped_column(server_default="0")
    gpu_use: Mapped[list[Any] | None]  # of each GPU: share of its time, bytes in use, bytes
    renewals: Mapped[int] = mapped_column(BigInteger, server_default="0")
    leases_lost: Mapped[int] = mapped_column(BigInteger, server_default="0")
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
