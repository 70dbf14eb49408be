"""`python -m benchmarks.paper`: train every cell of the table that is not there yet, then write the table.

Exit status: 0 once the table is written; 1 where something was refused, which is told.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.paper import estimate, summary, table, tasks, training
from benchmarks.paper.cells import METHODS, Budget, OtherSettingsError, commit, read_cells
from demo import materials
from mixkd.atomic import write_text
from mixkd.contract.augment_spec import BackTranslation
from mixkd.contract.glue import GLUE
from mixkd.contract.problems import RefusedError
from mixkd.prepare import find_device

OUT = Path(__file__).resolve().parents[2] / "build" / "bench" / "paper"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what one command line says; its exit status."""
    given = _parser().parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        chosen = _tasks(given)
        if not given.table_only:
            setting = _setting(given)
            if given.estimate:
                estimate.show(setting, chosen, given.shares, given.seeds, given.methods)
                return 0
            training.run(setting, chosen, given.shares, given.seeds, given.methods)
        write_table(given.out, chosen)
    except RefusedError as refused:
        for problem in refused.problems:
            print(f"{problem.field}: {problem.problem}", file=sys.stderr)
    except (OtherSettingsError, materials.WrongFileError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    else:
        return 0
    return 1


def write_table(out: Path, chosen: Sequence[tasks.Benchmark]) -> None:
    """Write `table.md` and `table.json` from the cells that are there, and say where."""
    names = {task.name for task in chosen}
    cells = [cell for cell in read_cells(out / "cells") if cell.key.task in names]
    lines = [line for task in chosen for line in summary.lines(task, cells)]
    write_text(out / "table.md", table.markdown(chosen, lines, cells))
    whole = {
        "lines": [line.model_dump() for line in lines],
        "columns": {task.name: task.columns for task in chosen},
        "cells": [cell.model_dump(mode="json") for cell in cells],
        "published": summary.PUBLISHED,
    }
    write_text(out / "table.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(cells)} cells: {out / 'table.md'}, {out / 'table.json'}")


def _tasks(given: argparse.Namespace) -> list[tasks.Benchmark]:
    """The tasks by name; in a smoke test, a few rows of each."""
    names = [one for name in given.tasks for one in (GLUE if name == "glue" else [name])]
    found = [tasks.own(name) if name in tasks.OWN else tasks.glue(name, given.glue) for name in names]
    return [tasks.shortened(task, given.out / "smoke") for task in found] if given.smoke else found


def _setting(given: argparse.Namespace) -> training.Setting:
    translation = None
    if given.forward and given.backward:
        translation = BackTranslation(forward=given.forward, backward=given.backward)
    return training.Setting(
        out=given.out,
        teacher=given.teacher or materials.minilm(),
        budget=Budget(
            epochs=1 if given.smoke else given.epochs,
            least_steps=1 if given.smoke else given.least_steps,
            batch_size=given.batch_size,
            learning_rate=given.learning_rate,
            layers=given.layers,
            precision=given.precision,
        ),
        translation=translation,
        device=find_device(given.device),
        commit=commit(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper",
        description="FT, KD, TMKD and SM+TMKD, each also +BT, with all of the data and with little of it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = [*tasks.OWN, *GLUE, "glue"]
    what = parser.add_argument_group("what is trained")
    what.add_argument("--tasks", nargs="+", default=list(tasks.OWN), choices=names, metavar="TASK")
    what.add_argument("--shares", nargs="+", type=float, default=[1.0, 0.1, 0.01], help="of the data")
    what.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    what.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    what.add_argument("--glue", type=Path, metavar="DIR", help="the folder of the GLUE tasks")
    what.add_argument("--teacher", type=Path, metavar="DIR", help="a pre-trained encoder; else MiniLM-L6")
    what.add_argument("--forward", type=Path, metavar="DIR", help="translation model into another language")
    what.add_argument("--backward", type=Path, metavar="DIR", help="and back; both, or no +BT row is run")

    budget = parser.add_argument_group("the budget of every network alike")
    budget.add_argument("--epochs", type=int, default=2)
    budget.add_argument("--least-steps", type=int, default=80, help="or more epochs")
    budget.add_argument("--batch-size", type=int, default=32)
    budget.add_argument("--learning-rate", type=float, default=2e-4)
    budget.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    budget.add_argument("--layers", type=int, default=3, help="of the students")

    how = parser.add_argument_group("how")
    how.add_argument("--out", type=Path, default=OUT, help="cells, teachers and the table")
    how.add_argument("--threads", type=int, help="of the CPU; else as many as torch takes")
    how.add_argument("--device", help="cpu, cuda …; else a GPU where there is one")
    how.add_argument("--estimate", action="store_true", help="say how long it would take, from a few steps")
    how.add_argument("--table-only", action="store_true", help="write the table of what is there")
    how.add_argument("--smoke", action="store_true", help="a few dozen rows, one epoch: does it work at all?")
    return parser


if __name__ == "__main__":
    sys.exit(main())
