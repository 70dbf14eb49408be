"""Which devices a worker says it has; a driver's files are written here as the driver writes them."""

from pathlib import Path

import pytest

from worker import devices
from worker.devices import Devices, find

H100 = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 150\nGPU UUID: \t GPU-1\nVideo BIOS: \t 96.00\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("MIXKD_DEVICE", raising=False)
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(H100)
    return tmp_path


def test_a_machine_without_a_driver_has_a_cpu(tmp_path: Path) -> None:
    assert find(tmp_path / "none") == Devices("cpu", 0)


def test_gpus_are_named_and_counted(driver: Path) -> None:
    assert find(driver) == Devices("NVIDIA H100 80GB HBM3", 2)


@pytest.mark.parametrize(("visible", "count"), [("1", 1), ("0,1", 2), ("", 0), ("-1", 0)])
def test_a_worker_has_what_it_may_see(
    driver: Path, monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find(driver).gpus == count


def test_a_worker_told_to_use_the_cpu_offers_no_gpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXKD_DEVICE", "cpu")
    assert find(driver) == Devices("cpu", 0)


def test_what_gpus_do_is_unknown_without_the_drivers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_library", lambda: False)
    assert devices.gpu_use() is None
