"""How long the table would take on this machine, judged by a few steps of every method."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.paper import training
from benchmarks.paper.cells import TEACHER, Budget, Cell, read_cells
from benchmarks.paper.tasks import Benchmark
from benchmarks.paper.training import Setting
from mixkd.batching import batch_count
from mixkd.contract.spec import DistilSpec
from mixkd.data import read_sets

_BATCHES = 10


def show(
    setting: Setting,
    tasks: Sequence[Benchmark],
    shares: Sequence[float],
    seeds: Sequence[int],
    methods: Sequence[str],
) -> None:
    """Print the minutes of every task, and of all; without back-translation, and as if no cell were there."""
    budget = setting.budget
    brief = budget.model_copy(update={"epochs": 1, "least_steps": 1})
    total = 0.0
    for task in tasks:
        sets, _ = read_sets(task.data, DistilSpec())
        rows = {name: len(some) for name, some in sets.items()}
        few = min(1.0, _BATCHES * budget.batch_size / rows["train"])
        with tempfile.TemporaryDirectory() as scratch:
            trial = replace(setting, out=Path(scratch), budget=brief, translation=None)
            training.run(trial, [task], [few], [0], methods)
            cells = list(read_cells(trial.cells))
        seconds = sum(
            cell_seconds(cell, budget, rows, share) * (1 if cell.key.method == TEACHER else len(seeds))
            for cell in cells
            for share in shares
        )
        total += seconds
        print(f"{task.name:<8} {seconds / 60:6.1f} minutes", flush=True)
    print(f"together {total / 60:6.1f} minutes, if nothing else runs that did not run just now")


def cell_seconds(trial: Cell, budget: Budget, rows: dict[str, int], share: float) -> float:
    """What a cell takes, by one that was trained for a single epoch on a few rows.

    Args:
        rows: of each set, in the end.
    """
    evaluated = sum(count for name, count in rows.items() if name in trial.scores)
    validation = trial.scoring_seconds / evaluated * rows["validation"]
    step = (trial.training_seconds - validation) / trial.steps
    trained = max(2, round(share * rows["train"]))
    epochs = budget.epochs_for(trained)
    steps = epochs * batch_count(trained, budget.batch_size)
    return steps * step + epochs * validation + trial.scoring_seconds
