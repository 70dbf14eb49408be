"""`estimate`: what a run takes on this machine, and whether it fits."""

import argparse

from mixkd.cli.show import Table, answer, busy, duration, failure, number, size
from mixkd.estimate.estimate import MeasurementError, estimate
from mixkd.estimate.schema import Estimate
from mixkd.inputs import check, read_spec
from mixkd.training.control import Control


def main(given: argparse.Namespace) -> int:
    """Try a few steps out in a child process; 1 if the run would fail from its start.

    Raises:
        RefusedError: something in the spec cannot work.
    """
    Control().install()  # SIGTERM ends it after it has tidied up
    spec = read_spec(given.spec)
    check(spec)  # before torch is loaded
    try:
        with busy("making a few steps of each training …", as_json=given.json):
            found = estimate(spec, given.device)
    except MeasurementError as error:
        failure(error.failed)
        return 1
    answer(found, [_trainings(found), _memory(found), _whole(found)], as_json=given.json)
    return 0


def _trainings(found: Estimate) -> Table:
    head = ("training", "rows", "steps", "tokens", "padded, mixed", "a step", "slowest", "in all")
    rows = [
        (
            name,
            number(cost.rows),
            number(cost.steps),
            number(cost.tokens),
            number(cost.padded_tokens),
            duration(cost.seconds_per_step),
            duration(cost.slowest_step),
            duration(cost.training_seconds + cost.evaluation_seconds),
        )
        for name, cost in found.trainings.items()
    ]
    return Table(f"Trainings on {found.device}, {found.precision}", head, rows)


def _memory(found: Estimate) -> Table:
    costs = found.trainings
    names = list(next(iter(costs.values())).memory.model_dump())
    rows = [(name, *(size(getattr(cost.memory, name)) for cost in costs.values())) for name in names]
    return Table("Memory", ("", *costs), rows)


def _whole(found: Estimate) -> Table:
    if found.fits:
        fits = "yes"
    else:
        fits = f"no; it does with recipe.runtime.micro_batch {found.micro_batch}, as counted here"
    needed = "more than there is" if found.memory_needed is None else size(found.memory_needed)
    rows = [
        *((f"parameters of the {name}", number(count)) for name, count in found.parameters.items()),
        ("time, without loading and exporting", duration(found.seconds)),
        ("memory needed", needed),
        ("memory available", size(found.memory_available)),
        ("fits", fits),
    ]
    return Table("The run", ("", ""), rows)
