"""The report card: what was made, from what, how, and how good it is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from mixkd.atomic import write_text
from mixkd.augment.card import AugmentCard
from mixkd.classifier import MixAt
from mixkd.contract.data_spec import MetricName, SetName, Task
from mixkd.contract.rows import DatasetReport
from mixkd.contract.spec import Baseline, RunSpec
from mixkd.data import SetsUsed
from mixkd.evaluate import Speed, parameter_count
from mixkd.export.onnx_check import OnnxCard
from mixkd.metrics import row_losses
from mixkd.randomness import generator
from mixkd.report.card import curves_of, model_card
from mixkd.report.curves import Point
from mixkd.report.judgement import Answers, SetCard, judge_set
from mixkd.report.provenance import COMMAND, Origins, device_name
from mixkd.report.schema import BaselineCard, Comparison, DataCard, Gap, ModelCard, Report
from mixkd.report.variant import describe
from mixkd.training.state import Outcome

__all__ = ["Report", "build_report", "describe_model", "write_card", "write_report"]


def build_report(
    spec: RunSpec,
    *,
    origins: Origins,
    labels: Sequence[str],
    used: SetsUsed,
    checked: DatasetReport,
    teacher: ModelCard,
    student: ModelCard,
    mixed_at: Mapping[str, MixAt],
    targets_by_set: Mapping[SetName, NDArray[np.floating[Any]]],
    answers_by_set: Mapping[SetName, Answers],
    taught: Outcome | None,
    distilled: Outcome,
    baselines: Mapping[Baseline, Outcome],
    augmented: Sequence[AugmentCard],
    curves: Sequence[Point],
    onnx: Sequence[OnnxCard],
    device: torch.device,
) -> Report:
    """Judge what was answered and write down all that decided it.

    Args:
        spec: the resolved run.
        mixed_at: where `teacher` and `student` mix.
        targets_by_set: (N, C) of every set and of `train`, of a regression in the data's units.
        answers_by_set: of the same rows, likewise, by `teacher`, `student` and the baselines' names.
    """
    task, metrics, seed = spec.data.task, spec.data.scored_by, spec.recipe.seed
    judged = {
        name: judge_set(
            answers, targets_by_set[name], task, metrics, labels, rng=generator(seed, "bootstrap", name)
        )
        for name, answers in answers_by_set.items()
        if name != "train"
    }
    sets = {name: card for name, (card, _) in judged.items()}
    return Report(
        task=task,
        teacher=teacher,
        student=student,
        judged_on=used.judged_on,
        sets=sets,
        comparison=compare(teacher, student, sets[used.judged_on], metrics[0]),
        generalisation_gap=_gaps(targets_by_set, answers_by_set, task),
        baselines={
            baseline: BaselineCard(
                outcome=outcome, sets={name: others[baseline] for name, (_, others) in judged.items()}
            )
            for baseline, outcome in baselines.items()
        },
        variant=describe(
            spec.recipe, spec.data, fine_tuned=taught is not None, layers=student.layers, mixed_at=mixed_at
        ),
        recipe=spec.recipe,
        seed=seed,
        data=DataCard(
            labels=list(labels),
            text_pairs=spec.data.columns.text_pair is not None,
            sets=used,
            skipped_rows=checked.skipped_rows,
            texts_in_two_sets=checked.texts_in_two_splits,
            score_range=checked.score_range,
            files=origins.files,
        ),
        augmenters=list(augmented),
        onnx=list(onnx),
        fingerprints=origins.models,
        teach=taught,
        distil=distilled,
        curves=list(curves),
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=origins.versions,
        command=COMMAND,
    )


def describe_model(model: PreTrainedModel, size: int, speed: Speed) -> ModelCard:
    """The card of a model whose weights take `size` bytes."""
    return ModelCard(
        family=model.config.model_type,
        layers=model.config.num_hidden_layers,
        hidden_size=model.config.hidden_size,
        parameters=parameter_count(model),
        bytes=size,
        speed=speed,
    )


def compare(teacher: ModelCard, student: ModelCard, judged: SetCard, metric: MetricName) -> Comparison:
    """The ratios of two cards, and what the student kept of a metric."""
    ours, theirs = judged.student.scores[metric].value, judged.teacher.scores[metric].value
    return Comparison(
        metric=metric,
        kept=ours / theirs if theirs > 0 and metric != "rmse" else None,
        parameters=student.parameters / teacher.parameters,
        bytes=student.bytes / teacher.bytes,
        latency=student.speed.latency_ms_p50 / teacher.speed.latency_ms_p50,
        throughput=student.speed.examples_per_second / teacher.speed.examples_per_second,
    )


def _gaps(
    targets: Mapping[SetName, NDArray[np.floating[Any]]], answers: Mapping[SetName, Answers], task: Task
) -> dict[str, Gap]:
    def loss(model: str, name: SetName) -> float:
        return float(row_losses(answers[name][model], targets[name], task).mean())

    losses = {model: (loss(model, "train"), loss(model, "validation")) for model in answers["train"]}
    return {
        model: Gap(train_loss=train, validation_loss=validation, gap=train - validation)
        for model, (train, validation) in losses.items()
    }


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json`, `README.md` and `curves/*.svg`; each file appears whole or not at all."""
    write_text(folder / "report.json", report.model_dump_json(indent=2) + "\n")
    write_card(report, folder)


def write_card(report: Report, folder: Path) -> None:
    """Write what people read, `README.md` and the curves that it shows, beside a student or a report."""
    (folder / "curves").mkdir(exist_ok=True)
    drawn = curves_of(report)
    for name, svg in drawn.items():
        write_text(folder / "curves" / name, svg)
    write_text(folder / "README.md", model_card(report, list(drawn)))
