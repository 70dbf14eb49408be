"""The trainings of a run: the teacher's, the student's, and those of the baselines beside it.

Of a regression all of them work in the job's units (`prepare.Scale`); `to_data_units` takes the models back
to those of the data.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from mixkd import losses
from mixkd.augment import AugmentCard, Context, Teacher, augment
from mixkd.contract.spec import PRESETS, Baseline, LossSpec
from mixkd.data import Encoded
from mixkd.evaluate import validate
from mixkd.failures import NotFiniteError
from mixkd.objectives import Network, imitate, needs_pairs, needs_teacher
from mixkd.prepare import Prepared, make_student
from mixkd.reporter import Reporter
from mixkd.training.control import Control
from mixkd.training.loop import step_count, train
from mixkd.training.state import Outcome, Surroundings, TrainData

Around = Callable[[str], Surroundings]
"""From a training's name to what surrounds it."""

FINETUNE = LossSpec.model_validate(PRESETS["finetune"])


@dataclass(frozen=True)
class Trained:
    """A model, and how it came to be."""

    model: PreTrainedModel
    outcome: Outcome


@dataclass(frozen=True)
class Lesson:
    """What the student and its baselines learn from, as each tokenizer cuts it."""

    teacher: Network
    student_rows: Encoded
    augmented: tuple[AugmentCard, ...]


def teach(prepared: Prepared, around: Surroundings) -> Outcome | None:
    """Fine-tune the teacher on the real rows if it needs that; otherwise only say how good it is."""
    rows = prepared.scaled(prepared.teacher_sets["train"])
    data = _train_data(prepared, rows, prepared.teacher_sets)
    if not prepared.needs_teaching:
        if prepared.scale is not None:
            prepared.scale.inward(prepared.teacher)
        around.reporter.phase("teach")
        with suppress(NotFiniteError):  # the student's first step will refuse such a teacher
            _show_score(prepared.teacher, data, around)
        return None
    objective = imitate(Network(prepared.teacher, rows), None, FINETUNE, prepared.task)
    return train(
        "teach", prepared.teacher, objective, data, prepared.spec.recipe.teach, mixup=None, around=around
    )


def _show_score(teacher: PreTrainedModel, data: TrainData, around: Surroundings) -> None:
    rows, precision = data.validation, around.precision
    scores = validate(teacher, rows, data.task, data.metrics, around.device, precision=precision)
    around.reporter.metric(0, {f"validation_{name}": value for name, value in scores.items()})


def make_lesson(prepared: Prepared, cache: Path, reporter: Reporter, control: Control) -> Lesson:
    """The training rows with those that the augmenters make of them. The teacher has been taught."""
    spec, rows, cards = prepared.spec, list(prepared.rows["train"]), list[AugmentCard]()
    if spec.augment:
        reporter.phase("augment")
        to_data_units(prepared, [prepared.teacher])  # it labels texts in the data's own units
        teacher = Teacher(
            prepared.teacher,
            prepared.teacher_tokenizer,
            prepared.labels,
            prepared.task,
            spec.recipe.max_length,
        )
        context = Context(
            seed=spec.recipe.seed,
            device=prepared.device,
            data=spec.data,
            cache=cache,
            teacher=teacher,
            progress=reporter.texts,
            should_stop=lambda: control.finish_now,
        )
        rows, cards = augment(rows, spec.augment, context=context)
        control.finish_now = False  # granted; the student is to be trained
        if prepared.scale is not None:
            prepared.scale.inward(prepared.teacher)
        teachers, students = prepared.encoded(rows)
    else:
        teachers, students = prepared.teacher_sets["train"], prepared.student_sets["train"]
    network = Network(prepared.teacher, prepared.scaled(teachers), prepared.mixes_at(prepared.teacher))
    return Lesson(network, prepared.scaled(students), tuple(cards))


def distil(prepared: Prepared, lesson: Lesson, around: Surroundings) -> Trained:
    """Train the student that the recipe asks for."""
    student = make_student(prepared)
    return _imitate(prepared, lesson, student, prepared.spec.recipe.loss, around, first_step=None)


def compare_with(
    prepared: Prepared, lesson: Lesson, student: Trained, around: Around
) -> dict[Baseline, Trained]:
    """Train the baselines: the same student, rows, batches and budget, another loss.

    There are none beside a student that was asked to finish early: the budget would not be the same.
    """
    recipe = prepared.spec.recipe
    if not recipe.baselines:
        return {}
    reporter = around("baselines").reporter
    if student.outcome.stopped == "asked":
        reporter.note("no baselines: the student was asked to finish, and theirs would be another budget")
        return {}
    steps = step_count(len(lesson.student_rows), recipe.distil)
    reporter.phase("baselines", steps * len(recipe.baselines))
    trained: dict[Baseline, Trained] = {}
    for number, name in enumerate(recipe.baselines):
        one = _imitate(
            prepared,
            lesson,
            make_student(prepared),
            baseline_loss(recipe.loss, name),
            around(f"baseline-{name}"),
            first_step=number * steps,
        )
        if one.outcome.stopped == "asked":
            reporter.note(f"asked to finish: baseline {name} and those after it are left out")
            break
        trained[name] = one
    return trained


def baseline_loss(loss: LossSpec, name: Baseline) -> LossSpec:
    """The student's loss with the weights of a baseline."""
    return loss.model_copy(update={"mle_weight": 1.0, **PRESETS[name]})


def to_data_units(prepared: Prepared, models: Iterable[PreTrainedModel]) -> None:
    """Take models that have been trained back to the data's units."""
    if prepared.scale is not None:
        for model in models:
            prepared.scale.outward(model)


def _imitate(
    prepared: Prepared,
    lesson: Lesson,
    student: PreTrainedModel,
    loss: LossSpec,
    around: Surroundings,
    *,
    first_step: int | None,
) -> Trained:
    recipe = prepared.spec.recipe
    rows = lesson.student_rows
    objective = imitate(
        Network(student, rows, prepared.mixes_at(student)),
        lesson.teacher if needs_teacher(loss) else None,
        loss,
        prepared.task,
        _class_weights(prepared, loss, rows),
    )
    outcome = train(
        "distil" if first_step is None else "baselines",
        student,
        objective,
        _train_data(prepared, rows, prepared.student_sets),
        recipe.distil,
        mixup=recipe.mixup if needs_pairs(loss) else None,
        around=around,
        stream="distil",
        first_step=first_step,
    )
    return Trained(student, outcome)


def _train_data(prepared: Prepared, rows: Encoded, sets: Mapping[str, Encoded]) -> TrainData:
    return TrainData(rows, prepared.scaled(sets["validation"]), prepared.task, prepared.metrics)


def _class_weights(prepared: Prepared, loss: LossSpec, rows: Encoded) -> torch.Tensor | None:
    if loss.class_weights == "none":
        return None
    counts = torch.from_numpy(rows.targets_of(np.arange(len(rows))).sum(0, dtype=np.float64))  # (C,)
    weights = losses.class_weights(loss, prepared.labels, counts)
    return None if weights is None else weights.to(prepared.device, torch.float32)
