"""A training as it goes: what it is given, what its steps change, and its way into checkpoints and back."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.batching import batch_count
from mixkd.classifier import ready_to_answer
from mixkd.contract.data_spec import MetricName, Task
from mixkd.contract.messages import Phase
from mixkd.contract.spec import MixupSpec, Precision, RuntimeSpec, TrainSpec
from mixkd.contract.strict import Strict
from mixkd.data import Encoded
from mixkd.metrics import Scores
from mixkd.reporter import Reporter
from mixkd.training.checkpoint import (
    BEST,
    MODEL,
    OPTIMISER,
    Checkpoint,
    Checkpoints,
    NotWrittenError,
    at_step,
)
from mixkd.training.control import Control
from mixkd.training.optimiser import adamw, memory, remember

Stopped = Literal["end", "early", "asked"]


@dataclass(frozen=True)
class TrainData:
    """What a network is trained on, and what chooses its best evaluation: the first metric."""

    train: Encoded
    validation: Encoded
    task: Task
    metrics: tuple[MetricName, ...]


@dataclass(frozen=True)
class Surroundings:
    """Where and how a training is computed, and who hears of it."""

    seed: int
    device: torch.device
    runtime: RuntimeSpec  # its precision is chosen
    reporter: Reporter
    control: Control
    checkpoints: Path  # a folder for this training alone

    @property
    def precision(self) -> Precision:
        """That of the forward passes."""
        assert self.runtime.precision != "auto"
        return self.runtime.precision


class Outcome(Strict):
    """What a training led to; the model has the weights of its best evaluation again."""

    steps: int = Field(description="that were made")
    epochs: int = Field(description="that were begun")
    best_step: int
    best_epoch: int = Field(description="counted from 1")
    validation: Scores = Field(description="of the best evaluation")
    seconds: float = Field(description="of all attempts together, as far as their work was kept")
    writing_seconds: float = Field(0.0, description="of them, on writing checkpoints")
    stopped: Stopped
    micro_batch: int | None = Field(description="rows at once in the end; null: the whole batch")
    notes: tuple[str, ...] = Field(description="what happened that a reader of the result should know")


class State(BaseModel):
    """All that a training knows beside its tensors: it goes into the checkpoints as JSON."""

    step: int = Field(0, ge=0)  # steps made
    micro_batch: int | None = Field(ge=1)
    best: Scores | None = None
    best_step: int = Field(0, ge=0)
    misses: int = Field(0, ge=0)  # evaluations since the best one
    sums: dict[str, float] = {}  # of each number since the last metric
    count: int = Field(0, ge=0)
    scaler: dict[str, int | float] = {}
    notes: list[str] = []
    seconds: float = 0.0
    writing: float = 0.0  # of them, on checkpoints
    outcome: Outcome | None = None

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take_means(self) -> dict[str, float]:
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


@dataclass
class Training:
    """What is trained, and all that a step changes."""

    phase: Phase
    stream: str
    first_step: int
    model: PreTrainedModel
    data: TrainData
    spec: TrainSpec
    around: Surroundings
    checkpoints: Checkpoints
    optimiser: torch.optim.AdamW
    scaler: torch.amp.GradScaler  # of fp16; does nothing in other precisions
    state: State
    best: dict[str, Tensor] = field(default_factory=dict)  # weights of the best evaluation, on the CPU
    saved: int | None = None  # the step of the last checkpoint

    @property
    def step_shown(self) -> int:
        """Steps made, as the phase counts them."""
        return self.first_step + self.state.step


def begin(
    phase: Phase,
    model: PreTrainedModel,
    data: TrainData,
    spec: TrainSpec,
    *,
    mixup: MixupSpec | None,
    around: Surroundings,
    stream: str,
    first_step: int,
) -> Training:
    """A training before its first step, or where an earlier attempt's checkpoint left it."""
    settings = [phase, stream, around.seed, spec.model_dump(), mixup and mixup.model_dump()]
    training = Training(
        phase=phase,
        stream=stream,
        first_step=first_step,
        model=model,
        data=data,
        spec=spec,
        around=around,
        checkpoints=Checkpoints(
            around.checkpoints,
            _fingerprint(settings, model, data, around.runtime),
            around.runtime.keep_checkpoints,
        ),
        optimiser=adamw(model, spec),
        scaler=torch.amp.GradScaler(around.device.type, enabled=around.precision == "fp16"),
        state=State(micro_batch=around.runtime.micro_batch),
    )
    steps = spec.epochs * batch_count(len(data.train), spec.batch_size)
    found, problems = training.checkpoints.newest(lambda facts: _is_state(facts, steps))
    for problem in problems:
        around.reporter.note(problem)
    if found is not None:
        _resume(training, found)
    return training


def _is_state(facts: dict[str, Any], steps: int) -> bool:
    """Whether facts are what a training of so many steps knows at one of them."""
    try:
        return State.model_validate(facts).step <= steps
    except ValidationError:
        return False


def _resume(training: Training, found: Checkpoint) -> None:
    training.model.load_state_dict(found.load(MODEL))
    training.state = state = State.model_validate(found.facts)
    if found.finished:
        ready_to_answer(training.model)
        return
    remember(training.optimiser, training.model, found.load(OPTIMISER))
    if training.scaler.is_enabled():
        training.scaler.load_state_dict(state.scaler)
    if state.best is not None:
        training.best = found.load(BEST if BEST in found.files else MODEL)
    training.saved = state.step


def save(training: Training) -> None:
    """Write a checkpoint; a disk without room costs the checkpoint, not the training."""
    state, reporter = training.state, training.around.reporter
    state.scaler = training.scaler.state_dict()
    contents: dict[str, Mapping[str, Tensor]] = {
        MODEL: training.model.state_dict(),
        OPTIMISER: memory(training.optimiser, training.model),
    }
    if state.best is not None and state.best_step != state.step:
        contents[BEST] = training.best  # else the model's own file has them
    try:
        training.checkpoints.write(at_step(state.step), contents, state.model_dump(mode="json"))
    except NotWrittenError as error:
        reporter.note(f"no checkpoint could be written after step {training.step_shown}: {error}")
        return
    training.saved = state.step
    reporter.checkpoint(training.step_shown)


def _fingerprint(settings: list[Any], model: PreTrainedModel, data: TrainData, runtime: RuntimeSpec) -> str:
    """Stands for what decides a training: two that differ here do not go on from each other's checkpoints.

    It does not see the weights that the training begins with, nor the objective: those are its caller's.
    """
    computed = runtime.model_dump(include={"precision", "micro_batch", "deterministic"})
    weights = {name: [str(value.dtype), *value.shape] for name, value in model.state_dict().items()}
    text = json.dumps([settings, computed, data.task, data.metrics, weights])
    digest = hashlib.sha256(text.encode())
    for rows in (data.train, data.validation):
        for array in (rows.tokens, rows.segments, rows.starts, rows.targets):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
