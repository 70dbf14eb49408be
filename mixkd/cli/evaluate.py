"""`evaluate`: how good a model is on labelled texts, and how sure that is."""

import argparse

import numpy as np
from pydantic import Field

from mixkd.cli.labelled import as_the_model_says, chosen_sets, encoded_set, labelled_data
from mixkd.cli.show import Table, answer, busy, number
from mixkd.contract.data_spec import DataSpec, MetricName, SetName, Task
from mixkd.contract.strict import Strict
from mixkd.evaluate import answers
from mixkd.metrics import row_losses
from mixkd.predict import Classifier, load
from mixkd.prepare import find_device
from mixkd.quiet import quiet_libraries
from mixkd.randomness import generator
from mixkd.report.bootstrap import Interval, bootstrap
from mixkd.report.provenance import device_name


class SetScores(Strict):
    """How good a model is on one set."""

    rows: int
    metrics: dict[MetricName, Interval] = Field(description="with 95 % bootstrap intervals over the rows")
    loss: float = Field(description="the mean loss of the task")


class Evaluation(Strict):
    """How good a model is."""

    task: Task
    device: str
    max_length: int = Field(description="tokens a row")
    sets: dict[SetName, SetScores]


def main(given: argparse.Namespace) -> int:
    """Score the model on every set that was asked for.

    Raises:
        RefusedError: the model or the data cannot be used, or they do not go together.
        NotFiniteError: the model answers with NaN or infinity.
    """
    data, of_spec = labelled_data(given)
    names = chosen_sets(data, given.set)
    quiet_libraries()
    device = find_device(given.device)
    max_length = of_spec if given.max_length is None else given.max_length
    classifier = load(given.model, device, max_length)
    data = as_the_model_says(data, classifier, given)
    with busy("answering …", as_json=given.json):
        sets = {name: _scores(data, name, classifier) for name in names}
    found = Evaluation(
        task=data.task, device=device_name(device), max_length=classifier.max_length, sets=sets
    )
    answer(found, [_table(found, data)], as_json=given.json)
    return 0


def _scores(data: DataSpec, name: SetName, classifier: Classifier) -> SetScores:
    rows = encoded_set(data, name, classifier)
    targets = rows.targets_of(np.arange(len(rows)))  # (N, C)
    found = answers(classifier.model, rows, classifier.model.device)  # (N, C)
    # Drawn as for a report card: with seed 0 the intervals are the same.
    rng = generator(0, "bootstrap", name)
    drawn = bootstrap({"model": found}, targets, data.task, data.scored_by, rng=rng)
    return SetScores(
        rows=len(rows),
        metrics=drawn.intervals("model"),
        loss=float(row_losses(found, targets, data.task).mean()),
    )


def _table(found: Evaluation, data: DataSpec) -> Table:
    rows = [
        (
            name,
            number(scores.rows),
            *(f"{it.value:.4f} ({it.low:.4f} to {it.high:.4f})" for it in scores.metrics.values()),
            number(scores.loss),
        )
        for name, scores in found.sets.items()
    ]
    return Table(f"Scores on {found.device}", ("set", "rows", *data.scored_by, "loss"), rows)
