"""The lines that a trainer writes to its supervisor: one JSON object a line, told apart by `type`."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from mixkd.contract.spec import RuntimeSpec
from mixkd.contract.strict import Strict

Phase = Literal["prepare", "teach", "augment", "distil", "baselines", "evaluate", "export", "publish"]
FailureCause = Literal[
    "invalid_input", "out_of_memory", "diverged", "worker_lost", "deadline_exceeded", "internal"
]


class PhaseStarted(Strict):
    """A phase began. `steps` is 0 where a phase has no countable steps."""

    type: Literal["phase"] = "phase"
    phase: Phase
    steps: int = Field(0, ge=0)


class Progress(Strict):
    """How far a phase is; sent a few times a second at most."""

    type: Literal["progress"] = "progress"
    phase: Phase
    step: int = Field(ge=0)
    steps: int = Field(ge=0)
    loss: float | None = None
    examples_per_second: float | None = None
    seconds_left: float | None = None


class Metric(Strict):
    """Numbers worth keeping, at a step of a phase: loss terms, learning rate, validation scores."""

    type: Literal["metric"] = "metric"
    phase: Phase
    step: int = Field(ge=0)
    values: dict[str, float]


class CheckpointWritten(Strict):
    """A training can go on from this step, whatever happens from now on."""

    type: Literal["checkpoint"] = "checkpoint"
    phase: Phase
    step: int = Field(ge=0)


class Resolved(Strict):
    """What was left open about the computation is chosen; every attempt at this run computes like this."""

    type: Literal["resolved"] = "resolved"
    runtime: RuntimeSpec


class Note(Strict):
    """Something that a user may want to know and that did not stop the run. No path of this machine."""

    type: Literal["note"] = "note"
    detail: str


class Done(Strict):
    """The student and the report lie in the run's folder."""

    type: Literal["done"] = "done"


class Failed(Strict):
    """The run is over. `detail` is for the user: no traceback, no path of this machine."""

    type: Literal["failed"] = "failed"
    cause: FailureCause
    detail: str
    field: str | None = None
    remedy: str | None = None


Message = Annotated[
    PhaseStarted | Progress | Metric | CheckpointWritten | Resolved | Note | Done | Failed,
    Field(discriminator="type"),
]
_message: TypeAdapter[Message] = TypeAdapter(Message)


def encode(message: Message) -> bytes:
    """One line, newline included."""
    return message.model_dump_json(exclude_none=True).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message on one line.

    Raises:
        pydantic.ValidationError: the line is not one of ours.
    """
    return _message.validate_json(line)
