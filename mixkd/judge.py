"""The phase `evaluate`: what every model answers to every set, and how fast."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from mixkd.classifier import MixAt
from mixkd.contract.data_spec import SetName
from mixkd.contract.spec import Baseline
from mixkd.data import Encoded, take
from mixkd.evaluate import Speed, answers, measure_speed
from mixkd.phases import Trained
from mixkd.prepare import Prepared
from mixkd.randomness import generator


@dataclass(frozen=True)
class Judged:
    """What the report is made of. Of a regression all numbers are in the data's units.

    Of the training rows, set `train`, there is a sample no larger than the validation set: it shows the
    generalisation gap, which needs no more.
    """

    mixed_at: Mapping[str, MixAt]  # of `teacher` and `student`, like `speeds`
    speeds: Mapping[str, Speed]
    targets: Mapping[SetName, NDArray[np.float32]]  # (N, C) by set
    answers: Mapping[SetName, Mapping[str, NDArray[np.float32]]]  # likewise, by model: baselines too


def judge(prepared: Prepared, student: PreTrainedModel, baselines: Mapping[Baseline, Trained]) -> Judged:
    """Ask every model about every set, and time teacher and student. All are in the data's units.

    Raises:
        NotFiniteError: an answer is NaN or infinite.
    """
    precision, device = prepared.spec.recipe.runtime.precision, prepared.device
    assert precision != "auto"
    pair = {"teacher": prepared.teacher, "student": student}
    models: dict[str, PreTrainedModel] = {**pair, **{name: one.model for name, one in baselines.items()}}
    own_sets = dict.fromkeys(models, prepared.student_sets) | {"teacher": prepared.teacher_sets}
    sets = {name: _sampled(prepared, own) for name, own in own_sets.items()}

    judged_on = prepared.used.judged_on
    timed_on = {name: own_sets[name][judged_on] for name in pair}
    return Judged(
        mixed_at={name: prepared.mixes_at(model) for name, model in pair.items()},
        speeds=measure_speed(pair, timed_on, device, precision),
        targets={name: rows.targets_of(np.arange(len(rows))) for name, rows in sets["teacher"].items()},
        answers={
            name: {model: answers(models[model], sets[model][name], device, precision) for model in models}
            for name in prepared.rows
        },
    )


def _sampled(prepared: Prepared, sets: Mapping[SetName, Encoded]) -> dict[SetName, Encoded]:
    train = sets["train"]
    count = min(len(train), len(sets["validation"]))
    rng = generator(prepared.spec.recipe.seed, "train_sample")
    return {**sets, "train": take(train, np.sort(rng.choice(len(train), count, replace=False)))}
