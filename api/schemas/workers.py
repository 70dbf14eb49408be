"""Workers on the wire."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from core.workers.repository import SeenWorker


class GpuView(BaseModel):
    """What one GPU of a worker's machine did when it last reported."""

    busy: float = Field(description="share of the last moments in which it worked, 0 to 1")
    memory_used: int = Field(description="bytes")
    memory_total: int = Field(description="bytes")


class WorkerView(BaseModel):
    """A worker process."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "wrk_01k3v0zzy8x7w6v5t4s3r2q1pn",
                    "hostname": "gpu-3",
                    "device": "NVIDIA H100 80GB HBM3",
                    "gpus": 1,
                    "gpu_use": [
                        {"busy": 0.93, "memory_used": 21_474_836_480, "memory_total": 85_520_809_984}
                    ],
                    "alive": True,
                    "busy": True,
                    "job_id": "job_01k3v12m5n7p9q1r3s5t7v9w1x",
                    "started_at": "2025-06-01T12:00:00Z",
                    "seen_at": "2025-06-01T12:00:33Z",
                }
            ]
        }
    )

    id: str
    hostname: str
    device: str = Field(description="`cpu`, or the name of its GPUs")
    gpus: int = Field(description="how many it may use")
    gpu_use: list[GpuView] | None = Field(
        description="of each GPU of the machine, also of those that it may not use; null without a driver"
    )
    alive: bool = Field(description="it has reported in within a lease (MIXKD_LEASE_SECONDS)")
    busy: bool = Field(description="it runs a job, yours or another owner's")
    job_id: str | None = Field(description="that job, if it is yours")
    started_at: datetime
    seen_at: datetime = Field(description="when it last reported in")

    @classmethod
    def of(cls, seen: SeenWorker) -> "WorkerView":
        """The worker as an owner sees it."""
        worker = seen.worker
        columns: dict[str, Any] = {
            name: getattr(worker, name) for name in cls.model_fields.keys() & worker.__mapper__.columns.keys()
        }
        use = worker.gpu_use and [
            {"busy": gpu["busy"], "memory_used": gpu["used"], "memory_total": gpu["total"]}
            for gpu in worker.gpu_use
        ]
        return cls.model_validate(
            columns | {"gpu_use": use, "alive": seen.alive, "busy": seen.busy, "job_id": seen.job_id}
        )
