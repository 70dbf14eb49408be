"""A report card built from a few answers, for the tests of whatever shows one."""

from pathlib import Path

import numpy as np
import torch

from mixkd.contract.data_spec import DataSpec, SetName
from mixkd.contract.rows import DatasetReport
from mixkd.contract.spec import DistilSpec, RunSpec
from mixkd.data import SetsUsed
from mixkd.evaluate import Speed
from mixkd.report.build import build_report
from mixkd.report.curves import Point
from mixkd.report.provenance import origins
from mixkd.report.schema import ModelCard, Report
from mixkd.training.state import Outcome

SETS: tuple[SetName, ...] = ("train", "validation", "test")
EYE = np.eye(3)
TRUTH = EYE[[0, 0, 1, 2]]
STUDENT = 3 * EYE[[0, 1, 1, 1]]
TEACHER = 3 * EYE[[0, 0, 1, 1]]


def make_report(
    folder: Path,
    recipe: dict[str, object] | None = None,
    data: dict[str, object] | None = None,
    **changes: object,
) -> Report:
    """A report of files in `folder`; keyword arguments change what it is built from."""
    for name in SETS:
        (folder / f"{name}.jsonl").write_text(f'{{"text": "{name}", "label": "red"}}\n')
    (folder / "teacher").mkdir(exist_ok=True)
    (folder / "teacher" / "config.json").write_text("{}")
    described = {"files": {name: folder / f"{name}.jsonl" for name in SETS}, **(data or {})}
    spec = RunSpec(
        teacher=folder / "teacher",
        data=DataSpec.model_validate(described),
        recipe=DistilSpec.model_validate(recipe or {}),
    )
    rows = dict.fromkeys(SETS, 4)
    given: dict[str, object] = {
        "origins": origins(spec),
        "checked": DatasetReport(labels=["red", "green", "blue"], splits={}, texts_in_two_splits=0),
        "labels": ["red", "green", "blue"],
        "used": SetsUsed(rows=rows, train_of=4, validation_from="file", judged_on="test"),
        "teacher": model(layers=6, parameters=1000, milliseconds=10.0),
        "student": model(layers=3, parameters=500, milliseconds=5.0),
        "mixed_at": {"teacher": "word", "student": "word"},
        "targets_by_set": dict.fromkeys(SETS, TRUTH),
        "answers_by_set": {
            "train": {"teacher": TEACHER, "student": 2 * TRUTH},
            "validation": {"teacher": TEACHER, "student": STUDENT},
            "test": {"teacher": TEACHER, "student": STUDENT},
        },
        "taught": None,
        "distilled": outcome(),
        "baselines": {},
        "augmented": [],
        "curves": points("distil"),
        "onnx": [],
        "device": torch.device("cpu"),
    }
    return build_report(spec, **{**given, **changes})  # type: ignore[arg-type]  # the tests give what fits


def model(layers: int, parameters: int, milliseconds: float) -> ModelCard:
    """The card of a BERT."""
    speed = Speed(latency_ms_p50=milliseconds, latency_ms_p95=milliseconds, examples_per_second=100.0)
    return ModelCard(
        family="bert", layers=layers, hidden_size=16, parameters=parameters, bytes=4 * parameters, speed=speed
    )


def outcome(**changes: object) -> Outcome:
    """What a training of 20 steps led to."""
    given = {
        "steps": 20,
        "epochs": 2,
        "best_step": 10,
        "best_epoch": 1,
        "validation": {"accuracy": 0.5, "loss": 1.0},
        "seconds": 1.0,
        "stopped": "end",
        "micro_batch": None,
        "notes": (),
    }
    return Outcome.model_validate({**given, **changes})


def points(phase: str) -> list[Point]:
    """What a training of 20 steps logged."""
    return [
        Point(
            phase=phase,
            step=step,
            values={
                "loss": 3 / step,
                "mle": 1 / step,
                "sm": 2 / step,
                "validation_loss": 1.0,
                "validation_accuracy": step / 20,
                "validation_macro_f1": step / 25,
            },
        )
        for step in (5, 10, 15, 20)
    ]
