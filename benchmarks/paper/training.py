"""Trains what the table lacks: a teacher for each task and share of its data, then the students."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

import torch

from benchmarks.paper.cells import AUGMENTED, METHODS, TEACHER, Budget, Cell, Key, keep, kept, machine
from benchmarks.paper.tasks import Benchmark
from mixkd.augment import check_augmenter
from mixkd.contract.augment_spec import BackTranslation
from mixkd.contract.data_spec import SetName
from mixkd.contract.spec import PRESETS, DistilSpec, RunSpec
from mixkd.evaluate import validate
from mixkd.export.folder import export
from mixkd.metrics import Scores
from mixkd.phases import Lesson, Trained, distil, make_lesson, teach, to_data_units
from mixkd.prepare import Prepared, prepare
from mixkd.report.provenance import file_cards, versions
from mixkd.reporter import Reporter
from mixkd.resolve import choose, computing
from mixkd.training.control import Control
from mixkd.training.state import Surroundings

_SAMPLE = 0  # the seed that draws a share of the data and trains the teacher: the same for every student


@dataclass(frozen=True)
class Setting:
    """What all cells of a table have alike, and where they go."""

    out: Path
    teacher: Path  # before it is fine-tuned
    budget: Budget
    translation: BackTranslation | None
    device: torch.device
    commit: str

    @property
    def cells(self) -> Path:
        """The folder of the cells' files."""
        return self.out / "cells"


def run(
    setting: Setting,
    tasks: Sequence[Benchmark],
    shares: Sequence[float],
    seeds: Sequence[int],
    methods: Sequence[str],
) -> None:
    """Train every cell that is not there. What is finished stays when the next one is interrupted.

    Raises:
        OtherSettingsError: a cell is there that was trained with another budget.
        RefusedError: a model or a file cannot be used.
    """
    setting.cells.mkdir(parents=True, exist_ok=True)
    if setting.translation is not None:
        for task in tasks:
            check_augmenter(setting.translation, task.data, "translation")
    for share in shares:
        for task in tasks:
            plain = [Key(task=task.name, share=share, method=m, seed=s) for s in seeds for m in methods]
            _students(setting, task, share, plain, None)
            if setting.translation is not None:
                added = [key.model_copy(update={"method": key.method + AUGMENTED}) for key in plain]
                _students(setting, task, share, added, setting.translation)


def _students(
    setting: Setting, task: Benchmark, share: float, keys: Sequence[Key], translation: BackTranslation | None
) -> None:
    missing = [key for key in keys if kept(setting.cells, key, setting.budget) is None]
    if not missing:
        return
    prepared = _prepare(setting, task, share, _taught(setting, task, share), translation)
    with computing(prepared.spec.recipe.runtime):
        teach(prepared, _around(setting, missing[0], prepared))  # done; scores go into the job's units
        lesson = make_lesson(prepared, setting.out / "augment", _SILENT, Control())
        for key in missing:
            _student(setting, key, prepared, lesson)


def _student(setting: Setting, key: Key, prepared: Prepared, lesson: Lesson) -> None:
    preset = METHODS[key.method.removesuffix(AUGMENTED)]
    recipe = prepared.spec.recipe
    loss = recipe.loss.model_copy(update=PRESETS[preset])
    recipe = recipe.model_copy(update={"preset": preset, "loss": loss})
    prepared = replace(prepared, spec=prepared.spec.model_copy(update={"recipe": recipe}))
    around = _around(setting, key, prepared)
    student = distil(prepared, lesson, around)
    _finish(setting, key, prepared, student, rows=len(lesson.student_rows))
    shutil.rmtree(around.checkpoints, ignore_errors=True)


def _taught(setting: Setting, task: Benchmark, share: float) -> Path:
    """The folder of the fine-tuned teacher, trained if it is not there."""
    key = Key(task=task.name, share=share, method=TEACHER, seed=_SAMPLE)
    folder = setting.out / "teachers" / f"{task.name}-{share:g}"
    if kept(setting.cells, key, setting.budget) is not None and folder.is_dir():
        return folder
    prepared = _prepare(setting, task, share, setting.teacher, None)
    around = _around(setting, key, prepared)
    with computing(prepared.spec.recipe.runtime):
        outcome = teach(prepared, around)
        assert outcome is not None
        to_data_units(prepared, [prepared.teacher])
        folder.parent.mkdir(exist_ok=True)
        export(prepared.teacher, prepared.teacher_tokenizer, folder)
        prepared = replace(prepared, scale=None)  # it speaks the data's units already
        teacher = Trained(prepared.teacher, outcome)
        _finish(setting, key, prepared, teacher, rows=prepared.used.rows["train"])
    shutil.rmtree(around.checkpoints, ignore_errors=True)
    return folder


def _finish(setting: Setting, key: Key, prepared: Prepared, trained: Trained, *, rows: int) -> None:
    """Score a model that was trained, write its cell, say so."""
    model, outcome, precision = trained.model, trained.outcome, prepared.spec.recipe.runtime.precision
    assert precision != "auto"  # it was chosen before the training
    to_data_units(prepared, [model])
    began = monotonic()
    scores: dict[SetName, Scores] = {
        name: validate(model, encoded, prepared.task, prepared.metrics, setting.device, precision=precision)
        for name, encoded in prepared.teacher_sets.items()
        if name not in ("train", "validation")
    }
    real = prepared.used.rows["train"]
    cell = Cell(
        key=key,
        budget=setting.budget,
        recipe=prepared.spec.recipe,
        data=file_cards(prepared.spec),
        teacher=setting.teacher.name,
        train_rows=real,
        added_rows=rows - real,
        epochs=outcome.epochs,
        steps=outcome.steps,
        best_step=outcome.best_step,
        validation=outcome.validation,
        scores=scores,
        training_seconds=outcome.seconds,
        scoring_seconds=monotonic() - began,
        commit=setting.commit,
        versions=versions(),
        machine=machine(setting.device),
    )
    keep(setting.cells, cell)
    told = ", ".join(f"{name} {value:.4f}" for name, value in next(iter(scores.values())).items())
    print(f"{key.file:<28} {outcome.seconds:6.1f} s  {outcome.steps:>4} steps  {told}", flush=True)


def _prepare(
    setting: Setting, task: Benchmark, share: float, teacher: Path, translation: BackTranslation | None
) -> Prepared:
    """The teacher and the data of a task's share, with the epochs that the number of its rows asks for."""
    spec = RunSpec(
        teacher=teacher,
        data=task.data,
        augment=(translation,) if translation else (),
        recipe=DistilSpec.model_validate(
            {
                "student": {"layers": setting.budget.layers},
                "teach": {"when": "always" if teacher == setting.teacher else "never"},
                "max_length": task.max_length,
                "train_fraction": share,
                "seed": _SAMPLE,
                "runtime": {"precision": setting.budget.precision},
            }
        ),
    )
    prepared = prepare(spec, setting.device)
    training = {
        "epochs": setting.budget.epochs_for(prepared.used.rows["train"]),
        "batch_size": setting.budget.batch_size,
        "learning_rate": setting.budget.learning_rate,
    }
    recipe = spec.recipe.model_copy(
        update={
            "teach": spec.recipe.teach.model_copy(update=training),
            "distil": spec.recipe.distil.model_copy(update=training),
            "runtime": choose(spec.recipe.runtime, setting.device, prepared.teacher),
        }
    )
    return replace(prepared, spec=spec.model_copy(update={"recipe": recipe}))


def _around(setting: Setting, key: Key, prepared: Prepared) -> Surroundings:
    return Surroundings(
        seed=key.seed,
        device=setting.device,
        runtime=prepared.spec.recipe.runtime,
        reporter=_SILENT,
        control=Control(),
        checkpoints=setting.out / "checkpoints" / key.file.removesuffix(".json"),
    )


_SILENT = Reporter(lambda _: None)
