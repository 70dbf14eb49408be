"""What a model answers, how good that is, and how fast it comes on this machine."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.batching import Batch, Indices, collate, ordered_batches
from mixkd.classifier import autocast, embed, logits, ready_to_answer
from mixkd.contract.data_spec import MetricName, Task
from mixkd.contract.spec import Precision
from mixkd.contract.strict import Strict
from mixkd.data import Encoded
from mixkd.failures import NotFiniteError, is_out_of_memory
from mixkd.metrics import Scores, score

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


def validate(
    model: PreTrainedModel,
    rows: Encoded,
    task: Task,
    metrics: Sequence[MetricName],
    device: torch.device,
    *,
    precision: Precision = "fp32",
) -> Scores:
    """Scores of a model on labelled rows. Leaves it in evaluation mode.

    Raises:
        NotFiniteError: an answer is NaN or infinite, so that no score would mean anything.
    """
    targets = rows.targets_of(np.arange(len(rows)))  # (N, C)
    return score(answers(model, rows, device, precision), targets, task, metrics)


def answers(
    model: PreTrainedModel, rows: Encoded, device: torch.device, precision: Precision = "fp32"
) -> NDArray[np.float32]:
    """The logits or scores of rows, in their order: (N, C). Leaves the model in evaluation mode.

    Where memory runs out, it is tried with half as many rows at once.

    Raises:
        NotFiniteError: one of them is NaN or infinite.
    """
    ready_to_answer(model)
    size = _BATCH
    while True:
        try:
            found = _answers(model, rows, device, precision, size)
            break
        except (MemoryError, RuntimeError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        if device.type == "cuda":  # after the handler, whose error held on to tensors
            torch.cuda.empty_cache()
        size //= 2
    if not np.isfinite(found).all():
        raise NotFiniteError
    return found


def _answers(
    model: PreTrainedModel, rows: Encoded, device: torch.device, precision: Precision, size: int
) -> NDArray[np.float32]:
    found = np.empty((len(rows), rows.outputs), dtype=np.float32)
    for indices in ordered_batches(rows.lengths, size):
        found[indices] = answer(model, collate(rows, indices).to(device), precision).cpu().numpy()
    return found


@torch.inference_mode()
def answer(model: PreTrainedModel, batch: Batch, precision: Precision = "fp32") -> Tensor:
    """The logits of a batch in float32, without a gradient: (B, C)."""
    with autocast(batch.tokens.device, precision):
        words = embed(model, batch.tokens, batch.segments, "word")
        return logits(model, words, batch.mask, batch.segments, "word").float()


def measure_speed(
    models: Mapping[str, PreTrainedModel],
    rows: Mapping[str, Encoded],
    device: torch.device,
    precision: Precision = "fp32",
) -> dict[str, Speed]:
    """Latency at batch 1 and throughput at batch 32 of several models on the same texts.

    The models take turns row by row, so that whatever else the machine does slows all of them alike.

    Args:
        rows: the same texts in the same order, as each model's own tokenizer cut them.
    """
    lengths = next(iter(rows.values())).lengths
    spread = np.linspace(0, len(lengths) - 1, min(len(lengths), _SINGLE_ROWS)).astype(np.int64)
    singles = [spread[at : at + 1] for at in range(len(spread))]
    full = [np.resize(indices, 32) for indices in ordered_batches(lengths, 32)]
    full = [full[at] for at in np.linspace(0, len(full) - 1, _FULL_BATCHES).astype(np.int64)]
    latencies = _time(models, rows, singles, device, precision)
    batches = _time(models, rows, full, device, precision)
    return {
        name: Speed(
            latency_ms_p50=float(np.percentile(latencies[name], 50)) * 1000,
            latency_ms_p95=float(np.percentile(latencies[name], 95)) * 1000,
            examples_per_second=32 * len(batches[name]) / sum(batches[name]),
        )
        for name in models
    }


def parameter_count(model: PreTrainedModel) -> int:
    """The numbers that a model has learnt; one that serves in two places counts once."""
    return sum(weight.numel() for weight in model.parameters())


def _time(
    models: Mapping[str, PreTrainedModel],
    rows: Mapping[str, Encoded],
    batches: list[Indices],
    device: torch.device,
    precision: Precision,
) -> dict[str, list[float]]:
    """Seconds of each forward pass, by model."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        ready_to_answer(model)
    started = time.perf_counter()
    for number, indices in enumerate(batches[:_WARM_UP] + batches):
        for name, model in models.items():
            batch = collate(rows[name], indices).to(device)
            took = _seconds(lambda model=model, batch=batch: answer(model, batch, precision), device)  # type: ignore[misc]  # mypy infers no lambda with defaults
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
