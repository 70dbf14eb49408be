"""A cell of the table: one trained network, what decided it and how good it is, in a JSON file of its own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError

from mixkd.atomic import write_text
from mixkd.batching import batch_count
from mixkd.contract.data_spec import SetName
from mixkd.contract.spec import DistilSpec, Precision, Preset
from mixkd.contract.strict import Strict
from mixkd.metrics import Scores
from mixkd.report.provenance import FileCard, device_name

TEACHER = "teacher"
METHODS: dict[str, Preset] = {"FT": "finetune", "KD": "kd", "TMKD": "tmkd", "SM+TMKD": "mixkd"}
AUGMENTED = "+BT"


class Budget(Strict):
    """What every network of the table has alike, the teachers too: no method is tuned by itself.

    A small share of the data gets more epochs, or it would be over before anything was learned.
    """

    epochs: int
    least_steps: int
    batch_size: int
    learning_rate: float
    layers: int
    precision: Literal["auto"] | Precision

    def epochs_for(self, rows: int) -> int:
        """How often so many rows are gone through: `epochs` times, or until there were `least_steps`."""
        return max(self.epochs, -(-self.least_steps // batch_count(rows, self.batch_size)))


class Key(Strict):
    """Which cell. `method` is `teacher`, or one of `METHODS`, with +BT if back-translated rows were added."""

    task: str
    share: float
    method: str
    seed: int

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.task}-{self.share:g}-{self.method.lower()}-{self.seed}.json"


class Machine(Strict):
    """Where it was trained."""

    device: str
    cores: int
    threads: int


class Cell(Strict):
    """What came out, and what anybody needs to have it again."""

    key: Key
    budget: Budget
    recipe: DistilSpec
    data: dict[SetName, FileCard]
    teacher: str  # the name of the pre-trained model
    train_rows: int
    added_rows: int  # by back-translation
    epochs: int
    steps: int
    best_step: int
    validation: Scores
    scores: dict[SetName, Scores]
    training_seconds: float  # with the evaluations of the validation rows
    scoring_seconds: float
    commit: str
    versions: dict[str, str]
    machine: Machine


class OtherSettingsError(Exception):
    """A cell that is there already was trained in another way."""


def kept(folder: Path, key: Key, budget: Budget) -> Cell | None:
    """The cell, if it is finished.

    Raises:
        OtherSettingsError: it is, but with another budget: one table must not hold both.
    """
    path = folder / key.file
    if not path.exists():
        return None
    try:
        cell = Cell.model_validate_json(path.read_bytes())
    except ValidationError:
        cell = None
    if cell is None or cell.budget != budget:
        raise OtherSettingsError(f"{path} has other settings; remove it, or name another folder with --out")
    return cell


def keep(folder: Path, cell: Cell) -> None:
    """Write the cell's file, complete or not at all."""
    write_text(folder / cell.key.file, cell.model_dump_json(indent=1) + "\n")


def read_cells(folder: Path) -> Iterator[Cell]:
    """All finished cells, in the order of their names."""
    for path in sorted(folder.glob("*.json")):
        yield Cell.model_validate_json(path.read_bytes())


def commit() -> str:
    """What the working tree is at; `+changes` if tracked files differ from it."""
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def machine(device: torch.device) -> Machine:
    """This one."""
    return Machine(
        device=device_name(device),
        cores=os.cpu_count() or 0,
        threads=torch.get_num_threads(),
    )
