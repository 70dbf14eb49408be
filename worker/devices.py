"""What this machine has to train on, from the driver's own files and library; torch is not loaded here."""

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pynvml

DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Devices:
    """`name`: of the GPUs, or `cpu`."""

    name: str
    gpus: int


def find(driver: Path = DRIVER) -> Devices:
    """The GPUs that we may use: those that CUDA_VISIBLE_DEVICES leaves, none with MIXKD_DEVICE=cpu."""
    names = []
    for path in sorted(driver.glob("*/information")):
        lines = dict(line.partition(":")[::2] for line in path.read_text(encoding="utf-8").splitlines())
        names.append(lines.get("Model", "GPU").strip())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = names[: len([one for one in visible.split(",") if one.strip() not in ("", "-1")])]
    if not names or os.environ.get("MIXKD_DEVICE") == "cpu":
        return Devices("cpu", 0)
    return Devices(names[0], len(names))


def gpu_use() -> list[dict[str, Any]] | None:
    """Of each GPU of the machine: `busy` (share of the last moments), `used` and `total` memory in bytes."""
    if not _library():
        return None
    found = []
    with suppress(pynvml.NVMLError):
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            busy = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100
            found.append({"busy": busy, "used": int(memory.used), "total": int(memory.total)})
    return found


@cache
def _library() -> bool:
    """Whether the driver's library is there; it stays loaded."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True
