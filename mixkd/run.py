"""One distillation from its description to the student's folder, phase by phase."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixkd.classifier import labels_of, pick_device
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.data import Encoded, SplitsUsed, encode, read_splits
from mixkd.evaluate import Speed, evaluate, measure_speed
from mixkd.export import export, weights_bytes
from mixkd.inputs import check
from mixkd.objectives import finetune, mixkd
from mixkd.randomness import seed_torch
from mixkd.report import (
    DataCard,
    ModelCard,
    Report,
    compare,
    describe,
    device_name,
    fingerprints,
    versions,
    write_report,
)
from mixkd.reporter import Reporter
from mixkd.student import build_student
from mixkd.teacher import load_teacher, load_tokenizer, load_with_new_head
from mixkd.train import Outcome, TrainData, train


@dataclass(frozen=True)
class Prepared:
    """What the phases work on."""

    teacher: PreTrainedModel
    needs_teaching: bool
    tokenizer: PreTrainedTokenizerBase
    train: Encoded
    validation: Encoded
    test: Encoded
    splits: SplitsUsed
    pad_id: int

    @property
    def train_data(self) -> TrainData:
        return TrainData(self.train, self.validation, self.pad_id)


def run(spec: RunSpec, folder: Path, reporter: Reporter, device: str | None = None) -> Report:
    """Distil: on return `folder` has `student/` and `report.json`.

    Two runs of one description on the same CPU give the same student, to the bit.

    Args:
        device: a torch device; the GPU if there is one, else the CPU.

    Raises:
        RefusedError: something in the description cannot work.
        DivergedError: a loss stopped being a finite number. Nothing is exported.
    """
    recipe = spec.recipe
    where = _device(device)

    reporter.phase("prepare")
    prepared = prepare(spec, where)
    teacher = prepared.teacher

    taught = None
    if prepared.needs_teaching:
        taught = train(
            "teach", teacher, finetune(teacher), prepared.train_data, recipe.teach,
            seed=recipe.seed, device=where, reporter=reporter,
        )  # fmt: skip

    student = build_student(teacher, recipe.student.layers)
    distilled = train(
        "distil", student, mixkd(student, teacher, recipe), prepared.train_data, recipe.distil,
        seed=recipe.seed, device=where, reporter=reporter,
    )  # fmt: skip

    reporter.phase("evaluate")
    report = judge(spec, prepared, student, taught=taught, distilled=distilled, device=where)

    reporter.phase("export")
    export(student, prepared.tokenizer, folder / "student")
    write_report(report, folder / "report.json")
    reporter.done()
    return report


def prepare(spec: RunSpec, device: torch.device) -> Prepared:
    """Check everything, load the teacher, tokenise the data.

    Raises:
        RefusedError: something in the description cannot work.
    """
    info, found = check(spec)
    when = spec.recipe.teach.when
    needs_teaching = when == "always" or (when == "auto" and info.labels is None)
    tokenizer = load_tokenizer(spec.teacher)
    if needs_teaching:
        seed_torch(spec.recipe.seed, "head")
        teacher = load_with_new_head(spec.teacher, found.labels)
    else:
        teacher = load_teacher(spec.teacher)

    teacher.to(device)  # type: ignore[arg-type]  # its decorator hides the method's own signature

    rows, splits = read_splits(spec.data)
    label_ids = {label: number for number, label in enumerate(labels_of(teacher))}
    encoded = {
        split: encode(part, tokenizer, label_ids, spec.recipe.max_length) for split, part in rows.items()
    }
    _refuse_unknown_tokens(teacher, encoded.values())
    return Prepared(
        teacher=teacher,
        needs_teaching=needs_teaching,
        tokenizer=tokenizer,
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded["test"],
        splits=splits,
        pad_id=int(tokenizer.pad_token_id),
    )


def judge(
    spec: RunSpec,
    prepared: Prepared,
    student: PreTrainedModel,
    *,
    taught: Outcome | None,
    distilled: Outcome,
    device: torch.device,
) -> Report:
    """Evaluate teacher and student on the same rows and write down all that decided the result."""
    models = {"teacher": prepared.teacher, "student": student}
    speeds = measure_speed(models, prepared.test, prepared.pad_id, device)
    cards = {name: _card(model, prepared, speeds[name], device) for name, model in models.items()}
    return Report(
        teacher=cards["teacher"],
        student=cards["student"],
        comparison=compare(cards["teacher"], cards["student"]),
        variant=describe(spec.recipe, fine_tuned=taught is not None),
        recipe=spec.recipe,
        seed=spec.recipe.seed,
        data=DataCard(labels=labels_of(student), splits=prepared.splits, files=fingerprints(spec)),
        teach=taught,
        distil=distilled,
        device=device_name(device),
        threads=torch.get_num_threads(),
        versions=dict(versions()),
    )


def _card(model: PreTrainedModel, prepared: Prepared, speed: Speed, device: torch.device) -> ModelCard:
    return ModelCard(
        family=model.config.model_type,
        layers=model.config.num_hidden_layers,
        hidden_size=model.config.hidden_size,
        parameters=sum(weight.numel() for weight in model.parameters()),
        bytes=weights_bytes(model),
        validation=evaluate(model, prepared.validation, prepared.pad_id, device),
        test=evaluate(model, prepared.test, prepared.pad_id, device),
        speed=speed,
    )


def _refuse_unknown_tokens(teacher: PreTrainedModel, parts: Iterable[Encoded]) -> None:
    """A tokeniser that does not belong to the model would index past the end of its embedding table."""
    known = int(teacher.config.vocab_size)  # the rows of the table: the folder was refused otherwise
    largest = max(int(part.tokens.max()) for part in parts)
    if largest >= known:
        raise RefusedError(
            Problem("teacher", f"its tokeniser makes token {largest}, but the model knows {known} only",
                    remedy="register the tokeniser that belongs to this model")
        )  # fmt: skip


def _device(name: str | None) -> torch.device:
    try:
        return pick_device(name)
    except ValueError as error:
        raise RefusedError(Problem("device", str(error), name, "use `cpu`, `cuda` or `cuda:1`")) from None
