"""Workers as the client reads and shows them."""

import pytest

from mixkd_client import Worker
from mixkd_client._cli import activity

WORKER = {
    "id": "wrk_1",
    "hostname": "box",
    "device": "NVIDIA H100",
    "gpus": 1,
    "gpu_use": [{"busy": 0.5, "memory_used": 1, "memory_total": 2, "celsius": 60}],
    "alive": True,
    "busy": False,
    "job_id": None,
    "started_at": "2026-01-02T03:04:05Z",
    "seen_at": "2026-01-02T03:04:06Z",
    "invented_later": 1,
}


def test_unknown_fields_are_read_over() -> None:
    worker = Worker.model_validate(WORKER)
    assert worker.gpu_use is not None
    assert [gpu.busy for gpu in worker.gpu_use] == [0.5]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, "idle"),
        ({"busy": True}, "busy"),
        ({"busy": True, "job_id": "job_1"}, "job_1"),
        ({"busy": True, "job_id": "job_1", "alive": False}, "gone"),
    ],
)
def test_what_a_worker_does_in_a_word(given: dict[str, object], shown: str) -> None:
    assert activity(Worker.model_validate(WORKER | given)) == shown
