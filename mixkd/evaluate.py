"""How good a model is, and how fast on this machine."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's users know it by
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.batching import Batch, Indices, collate, ordered_batches
from mixkd.classifier import embed, logits, ready_to_answer
from mixkd.contract.strict import Strict
from mixkd.data import Encoded
from mixkd.failures import NotFiniteError
from mixkd.metrics import Scores, accuracy, macro_f1

_BATCH = 64
_WARM_UP = 5
_SINGLE_ROWS = 200  # one row at a time, for the latency
_FULL_BATCHES = 30  # of 32 rows, for the throughput
_PATIENCE = 10.0  # seconds that either measurement may take; then what there is must do


class Speed(Strict):
    """Forward passes on this machine: tokenised rows in, logits out; tokenising is not counted."""

    latency_ms_p50: float = Field(description="median of one row at a time (batch 1)")
    latency_ms_p95: float = Field(description="95th percentile of one row at a time (batch 1)")
    examples_per_second: float = Field(description="in batches of 32 rows")


def evaluate(model: PreTrainedModel, rows: Encoded, pad_id: int, device: torch.device) -> Scores:
    """Scores of a model on rows. Leaves it in evaluation mode.

    Raises:
        NotFiniteError: an answer is NaN or infinite, so that no score would mean anything.
    """
    ready_to_answer(model)
    predicted = np.empty(len(rows), dtype=np.int64)
    loss = 0.0
    for indices in ordered_batches(rows.lengths, _BATCH):
        batch = collate(rows, indices, pad_id).to(device)
        answers = answer(model, batch)  # (B, C)
        if not bool(answers.isfinite().all()):
            raise NotFiniteError
        predicted[indices] = answers.argmax(-1).cpu().numpy()
        loss += float(F.cross_entropy(answers, batch.labels, reduction="sum"))
    return Scores(
        accuracy=accuracy(rows.labels, predicted),
        macro_f1=macro_f1(rows.labels, predicted),
        loss=loss / len(rows),
    )


@torch.inference_mode()
def answer(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The logits of a batch, without a gradient: (B, C)."""
    return logits(model, embed(model, batch.tokens), batch.mask, batch.segments)


def measure_speed(
    models: Mapping[str, PreTrainedModel], rows: Encoded, pad_id: int, device: torch.device
) -> dict[str, Speed]:
    """Latency at batch 1 and throughput at batch 32 of several models on the same rows.

    The models take turns row by row, so that whatever else the machine does slows all of them alike.
    """
    spread = np.linspace(0, len(rows) - 1, min(len(rows), _SINGLE_ROWS)).astype(np.int64)
    singles = [spread[at : at + 1] for at in range(len(spread))]
    full = [np.resize(indices, 32) for indices in ordered_batches(rows.lengths, 32)]
    full = [full[at] for at in np.linspace(0, len(full) - 1, _FULL_BATCHES).astype(np.int64)]
    latencies = _time(models, rows, singles, pad_id, device)
    batches = _time(models, rows, full, pad_id, device)
    return {
        name: Speed(
            latency_ms_p50=float(np.percentile(latencies[name], 50)) * 1000,
            latency_ms_p95=float(np.percentile(latencies[name], 95)) * 1000,
            examples_per_second=32 * len(batches[name]) / sum(batches[name]),
        )
        for name in models
    }


def _time(
    models: Mapping[str, PreTrainedModel],
    rows: Encoded,
    batches: list[Indices],
    pad_id: int,
    device: torch.device,
) -> dict[str, list[float]]:
    """Seconds of each forward pass, by model."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    started = time.perf_counter()
    for number, indices in enumerate(batches[:_WARM_UP] + batches):
        batch = collate(rows, indices, pad_id).to(device)
        for name, model in models.items():
            took = _seconds(lambda model=model, batch=batch: answer(model, batch), device)  # type: ignore[misc]  # mypy infers no lambda with defaults
            if number >= min(_WARM_UP, len(batches)):
                seconds[name].append(took)
        if time.perf_counter() - started > _PATIENCE and all(seconds.values()):
            break
    return seconds


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # the launch returns long before the work is done
    return time.perf_counter() - started
