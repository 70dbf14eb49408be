"""What an augmenter is, what it is lent, and what it hands back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixkd.contract.data_spec import DataSpec, Task
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Row

Spec = TypeVar("Spec")
STOPPED = "not made: the run was asked to finish"  # a reason to drop, of every augmenter


@dataclass(frozen=True)
class Teacher:
    """The taught teacher. Of a regression it answers in the data's own units."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]  # in the order of its outputs
    task: Task
    max_length: int  # tokens a row


@dataclass(frozen=True)
class Context:
    """What a run lends to its augmenters."""

    seed: int
    device: torch.device
    data: DataSpec
    cache: Path  # a folder, made when something is to be kept
    teacher: Teacher | None = None  # only some augmenters ask it
    progress: Callable[[int, int], None] = lambda _done, _of: None  # texts
    should_stop: Callable[[], bool] = lambda: False  # whether what is made so far has to do


@dataclass(frozen=True)
class Made:
    """New rows, and how many there could have been besides, by the reason why there are not."""

    rows: list[Row]
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()


def _one_each(rows: Sequence[Row], _spec: object, _data: DataSpec) -> int:
    return len(rows)


@dataclass(frozen=True)
class Augmenter(Generic[Spec]):
    """What an augmenter does, and a number to raise when they begin to make other rows.

    A refusal names the fields of the spec alone; the seam puts the name of the augmenter before them.
    """

    version: int
    check: Callable[[Spec, DataSpec], None]
    """Refuse what cannot work, before anything runs: no weights are loaded."""
    made_from: Callable[[Spec, Context], dict[str, str]]
    """By field, the SHA-256 of what decides the new rows besides settings, real rows and seed."""
    make: Callable[[Sequence[Row], Spec, Mapping[str, str], Context], Made]
    """From real rows, the spec and what `made_from` said."""
    most: Callable[[Sequence[Row], Spec, DataSpec], int] = _one_each
    """How many rows it can make of the real rows, known before it makes any: for an estimate."""


@contextmanager
def within(place: str) -> Iterator[None]:
    """Let a refusal say where its fields are: within `augment.0.`, `forward` becomes `augment.0.forward`."""
    try:
        yield
    except RefusedError as refused:
        raise RefusedError(
            *(replace(problem, field=f"{place}{problem.field}") for problem in refused.problems)
        ) from refused
