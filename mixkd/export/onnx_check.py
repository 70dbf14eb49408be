"""Holds an ONNX file against the torch model that it was made from, on real rows and on the CPU."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from transformers import PreTrainedModel

from mixkd.batching import Batch, Indices, collate, ordered_batches
from mixkd.classifier import ready_to_answer
from mixkd.contract.data_spec import MetricName, Task
from mixkd.contract.strict import Strict
from mixkd.data import Encoded
from mixkd.evaluate import answer
from mixkd.failures import NotFiniteError
from mixkd.metrics import Scores, answered, score

Variant = Literal["fp32", "int8"]
Logits = NDArray[np.float32]  # (N, C)
Run = Callable[[Batch], Logits]

LARGEST_DIFFERENCE = 1e-3
"""Of any fp32 answer from torch's, over their spread: rounding makes some 1e-5, a wrong graph far more."""
LARGEST_LOSS = 0.02
"""That int8 may lose of the first metric. What it adds to `rmse` is measured in the labels' deviation."""
LEAST_AGREEMENT = 0.95
"""Share of rows to which int8 must give torch's answer."""
_ALIKE = 0.1  # two scores this near, over the answers' spread, are the same answer

_ROWS = 2000  # the check of a large set would take longer than its student's training took on a GPU
_BATCH = 32  # int8 finds one range a batch for all its rows: a batch of one would flatter
_TIMED = 100  # rows, one at a time


class OnnxCheck(Strict):
    """An ONNX file beside torch, both on this machine's CPU, in the same number of threads."""

    rows: int = Field(description=f"of the set, spread evenly over it; at most {_ROWS}")
    largest_difference: float = Field(
        description="of any answer from torch's, over the standard deviation of all answers"
    )
    agreement: float = Field(
        description="share of rows with the same class, the same labels, or a score that differs by "
        f"{_ALIKE:g} of the answers' standard deviation at most"
    )
    torch: Scores = Field(description="by metric, of torch on these rows")
    onnx: Scores = Field(description="by metric, of the file on these rows")
    torch_latency_ms_p50: float = Field(description="median of one row at a time (batch 1)")
    latency_ms_p50: float = Field(description="median of one row at a time (batch 1)")


class OnnxCard(Strict):
    """One ONNX file of the student. A file that broke the model is not kept."""

    variant: Variant
    kept: bool
    reason: str | None = Field(None, description="why it was not kept")
    bytes: int | None = Field(None, description="null: it could not be written")
    check: OnnxCheck | None = Field(
        None, description="null: it could not be run, or its answers are not finite"
    )


@dataclass(frozen=True)
class Reference:
    """What torch answers to the N rows that every file of a model is checked on."""

    rows: Encoded
    chosen: Indices  # (N,), rows of `rows`
    task: Task
    metrics: Sequence[MetricName]
    logits: Logits
    run: Run  # torch once more, to time it

    @property
    def targets(self) -> Logits:
        return self.rows.targets_of(self.chosen)

    @property
    def spread(self) -> float:
        """The unit of differences: the answers' standard deviation, at least 1 % of the largest answer."""
        least = float(np.finfo(np.float32).tiny)
        return max(float(self.logits.std()), 0.01 * float(np.abs(self.logits).max()), least)

    def scores(self, logits: Logits) -> Scores:
        """Of answers to the chosen rows."""
        return score(logits, self.targets, self.task, self.metrics)


def ask_torch(model: PreTrainedModel, rows: Encoded, task: Task, metrics: Sequence[MetricName]) -> Reference:
    """Let a model on the CPU answer the rows. Leaves it in evaluation mode.

    Raises:
        NotFiniteError: an answer is NaN or infinite.
    """
    ready_to_answer(model)
    chosen = _spread(len(rows), _ROWS)

    def run(batch: Batch) -> Logits:
        return answer(model, batch).numpy()

    logits = _answers(run, rows, chosen)
    if not np.isfinite(logits).all():
        raise NotFiniteError
    return Reference(rows, chosen, task, metrics, logits, run)


def check(path: Path, variant: Variant, reference: Reference) -> OnnxCard:
    """Run an ONNX file on the reference's rows; remove it if it broke the model.

    Raises:
        Exception: ONNX Runtime cannot load or run it; each of its errors is a class of its own.
    """
    run = _session(path)
    logits = _answers(run, reference.rows, reference.chosen)
    compared = None
    if np.isfinite(logits).all():
        torch_ms, onnx_ms = _latencies_ms((reference.run, run), reference.rows, reference.chosen)
        compared = OnnxCheck(
            rows=len(logits),
            largest_difference=float(np.abs(logits - reference.logits).max()) / reference.spread,
            agreement=_agreement(logits, reference),
            torch=reference.scores(reference.logits),
            onnx=reference.scores(logits),
            torch_latency_ms_p50=torch_ms,
            latency_ms_p50=onnx_ms,
        )
    size = path.stat().st_size
    reason = _broken(variant, compared, reference)
    if reason is not None:
        path.unlink()
    return OnnxCard(variant=variant, kept=reason is None, reason=reason, bytes=size, check=compared)


def _broken(variant: Variant, compared: OnnxCheck | None, reference: Reference) -> str | None:
    """What is wrong with a file; None: it is good."""
    if compared is None:
        return "an answer is NaN or infinite"
    if variant == "fp32":
        far = compared.largest_difference
        limit = f"{LARGEST_DIFFERENCE:g} is allowed"
        return (
            f"an answer is {far:.2g} standard deviations from torch's; {limit}"
            if far > LARGEST_DIFFERENCE
            else None
        )
    metric = reference.metrics[0]
    lost = compared.torch[metric] - compared.onnx[metric]
    allowed = LARGEST_LOSS
    if metric == "rmse":
        lost, allowed = -lost, LARGEST_LOSS * float(reference.targets.std())
    if lost > allowed:
        return f"{metric} goes from {compared.torch[metric]:.4g} to {compared.onnx[metric]:.4g}"
    if compared.agreement < LEAST_AGREEMENT:
        return f"it agrees with torch on {compared.agreement:.1%} of rows; {LEAST_AGREEMENT:.0%} is the least"
    return None


def _agreement(logits: Logits, reference: Reference) -> float:
    if reference.task == "regression":
        return float((np.abs(logits - reference.logits) <= _ALIKE * reference.spread).mean())
    same = answered(logits, reference.task) == answered(reference.logits, reference.task)
    return float(same.reshape(len(logits), -1).all(-1).mean())


# -- running -----------------------------------------------------------------------------------------------


def _session(path: Path) -> Run:
    """From batches to what an ONNX file answers."""
    import onnxruntime as ort  # type: ignore[import-untyped]  # it has no types

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Between two runs its threads would spin, and be in torch's way.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: its warnings are about graphs that others wrote
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(batch: Batch) -> Logits:
        known = {"input_ids": batch.tokens, "attention_mask": batch.mask, "token_type_ids": batch.segments}
        found: list[Any] = session.run(["logits"], {name: known[name].numpy() for name in names})
        logits: Logits = found[0]
        return logits

    return run


def _answers(run: Run, rows: Encoded, chosen: Indices) -> Logits:
    logits = np.empty((len(chosen), rows.outputs), dtype=np.float32)
    for places in ordered_batches(rows.lengths[chosen], _BATCH):
        logits[places] = run(collate(rows, chosen[places]))
    return logits


def _latencies_ms(runs: Sequence[Run], rows: Encoded, chosen: Indices) -> list[float]:
    """The median time of one row, of each. They take turns: what else the machine does slows all of them."""
    took: list[list[float]] = [[] for _ in runs]
    for place in _spread(len(chosen), _TIMED):
        batch = collate(rows, chosen[place : place + 1])
        for run, times in zip(runs, took, strict=True):
            started = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - started)
    return [float(np.median(times)) * 1000 for times in took]


def _spread(rows: int, most: int) -> Indices:
    """Up to `most` of so many rows, evenly."""
    return np.linspace(0, rows - 1, min(rows, most)).astype(np.int64)
