"""Everything a run needs before its first step: checked, loaded, tokenised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixkd.classifier import MixAt, labels_of, mix_at, order_outputs, pick_device, scale_head
from mixkd.contract.data_spec import MetricName, SetName, Task
from mixkd.contract.fit import needs_teaching
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import DatasetReport, Row
from mixkd.contract.spec import RunSpec
from mixkd.data import Encoded, SetsUsed, encode, read_sets
from mixkd.inputs import check
from mixkd.randomness import seed_torch
from mixkd.student import build_student
from mixkd.teacher import load_encoder, load_teacher, load_tokenizer, load_with_new_head


@dataclass(frozen=True)
class Scale:
    """Scores are learned with mean 0 and standard deviation 1 over the training rows.

    Before and after a job they are in the data's own units; the change is exact but for rounding, since the
    head's last layer can take it up.
    """

    mean: float
    deviation: float

    def inward(self, model: PreTrainedModel) -> None:
        """From the data's units to the job's."""
        scale_head(model, -self.mean / self.deviation, 1 / self.deviation)

    def outward(self, model: PreTrainedModel) -> None:
        """From the job's units to the data's."""
        scale_head(model, self.mean, self.deviation)

    def rows(self, encoded: Encoded) -> Encoded:
        """Rows whose targets are in the job's units."""
        targets = (encoded.targets - self.mean) / self.deviation
        return replace(encoded, targets=targets.astype(np.float32))


@dataclass(frozen=True)
class Prepared:
    """What the phases work on. Of a regression, the rows and the teacher are in the data's units."""

    spec: RunSpec
    device: torch.device
    checked: DatasetReport
    labels: tuple[str, ...]
    teacher: PreTrainedModel
    needs_teaching: bool
    teacher_tokenizer: PreTrainedTokenizerBase
    student_tokenizer: PreTrainedTokenizerBase
    rows: Mapping[SetName, Sequence[Row]]
    used: SetsUsed
    teacher_sets: Mapping[SetName, Encoded]
    student_sets: Mapping[SetName, Encoded]  # the same objects where the tokenizer is the same
    scale: Scale | None

    @property
    def task(self) -> Task:
        """Of the data."""
        return self.spec.data.task

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """The first one chooses the best weights."""
        return self.spec.data.scored_by

    def mixes_at(self, model: PreTrainedModel) -> MixAt:
        """Where a model mixes its examples."""
        return mix_at(model, self.spec.recipe.mixup.mix_at)

    def scaled(self, rows: Encoded) -> Encoded:
        """Rows as trainings want them: scores in the job's units."""
        return rows if self.scale is None else self.scale.rows(rows)

    def encoded(self, rows: Sequence[Row]) -> tuple[Encoded, Encoded]:
        """More rows, as the teacher's and as the student's tokenizer cut them."""
        teachers = self._encode(rows, self.teacher_tokenizer)
        if self.student_tokenizer is self.teacher_tokenizer:
            return teachers, teachers
        return teachers, self._encode(rows, self.student_tokenizer)

    def _encode(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Encoded:
        return encode(rows, tokenizer, self.task, self.labels, self.spec.recipe.max_length)


def prepare(spec: RunSpec, device: torch.device) -> Prepared:
    """Check everything, load the teacher, tokenise the data.

    Raises:
        RefusedError: something in the description cannot work.
    """
    info, found = check(spec)
    task, recipe = spec.data.task, spec.recipe
    teaches = needs_teaching(recipe, info)
    teacher_tokenizer = load_tokenizer(spec.teacher)
    if teaches:
        seed_torch(recipe.seed, "head")
        teacher = load_with_new_head(spec.teacher, spec.data.labels or found.labels, task)
    else:
        teacher = load_teacher(spec.teacher)
        order_outputs(teacher, spec.data.labels or ())
    teacher.to(device)  # type: ignore[arg-type]  # its decorator hides the method's own signature
    labels = tuple(labels_of(teacher))

    student_tokenizer = teacher_tokenizer
    if recipe.student.init == "model":
        assert spec.student is not None  # the check refused the run otherwise
        student_tokenizer = load_tokenizer(spec.student, "student")

    rows, used = read_sets(spec.data, recipe)
    teacher_sets = {
        name: encode(part, teacher_tokenizer, task, labels, recipe.max_length) for name, part in rows.items()
    }
    student_sets: Mapping[SetName, Encoded] = teacher_sets
    if student_tokenizer is not teacher_tokenizer:
        student_sets = {
            name: encode(part, student_tokenizer, task, labels, recipe.max_length)
            for name, part in rows.items()
        }
    refuse_unknown_tokens("teacher", teacher, teacher_sets.values())
    return Prepared(
        spec=spec,
        device=device,
        checked=found,
        labels=labels,
        teacher=teacher,
        needs_teaching=teaches,
        teacher_tokenizer=teacher_tokenizer,
        student_tokenizer=student_tokenizer,
        rows=rows,
        used=used,
        teacher_sets=teacher_sets,
        student_sets=student_sets,
        scale=_scale(rows["train"]) if task == "regression" else None,
    )


def make_student(prepared: Prepared) -> PreTrainedModel:
    """The student before its first step; every call makes the same one.

    Raises:
        RefusedError: the recipe's student cannot be made.
    """
    spec = prepared.spec
    before = spec.recipe.student.init == "origin" and prepared.needs_teaching
    seed_torch(spec.recipe.seed, "student")  # first: a pooler that the origin lacks is drawn too
    student = build_student(
        spec.recipe.student,
        prepared.teacher,
        origin=load_encoder(spec.teacher) if before else None,
        folder=spec.student,
        labels=prepared.labels,
        task=prepared.task,
    )
    student.to(prepared.device)  # type: ignore[arg-type]  # its decorator hides the method's own signature
    if (
        spec.recipe.runtime.attention != "auto"
        and student.config.model_type == prepared.teacher.config.model_type
    ):
        student.set_attn_implementation(spec.recipe.runtime.attention)
    refuse_unknown_tokens("student", student, prepared.student_sets.values())
    return student


def refuse_unknown_tokens(field: str, model: PreTrainedModel, parts: Iterable[Encoded]) -> None:
    """A tokeniser that does not belong to the model would index past the end of its embedding table.

    Raises:
        RefusedError: it does so.
    """
    known = int(model.config.vocab_size)  # the rows of the table: the folder was refused otherwise
    largest = max(int(part.tokens.max()) for part in parts)
    if largest >= known:
        raise RefusedError(
            Problem(field, f"its tokeniser makes token {largest}, but the model knows {known} only",
                    remedy="give it the tokeniser that belongs to this model")
        )  # fmt: skip


def find_device(name: str | None) -> torch.device:
    """The device to run on.

    Raises:
        RefusedError: there is no such device here.
    """
    try:
        return pick_device(name)
    except ValueError as error:
        raise RefusedError(Problem("device", str(error), name, "use `cpu`, `cuda` or `cuda:1`")) from None


def _scale(rows: Sequence[Row]) -> Scale:
    scores = np.array([row.label for row in rows], dtype=np.float64)
    mean, deviation = float(scores.mean()), float(scores.std())
    if not deviation:
        raise RefusedError(
            Problem("files.train", "every row has the same score; there is nothing to learn",
                    float(scores[0]), "send rows of different scores")
        )  # fmt: skip
    if float(np.abs(scores).max()) * float(np.finfo(np.float32).eps) > deviation / 1000:
        raise RefusedError(
            Problem("files.train", f"the scores lie around {mean:g} and differ by {deviation:g}: "
                    "answers in float32 cannot tell them apart", mean, "subtract a constant from all scores")
        )  # fmt: skip
    return Scale(mean, deviation)
