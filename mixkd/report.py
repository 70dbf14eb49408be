"""The report card, `report.json`: what was made, from what, how, and how good it is."""

import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from mixkd.contract.data_spec import Split
from mixkd.contract.spec import DistilSpec, RunSpec
from mixkd.contract.strict import Strict
from mixkd.data import SplitsUsed
from mixkd.evaluate import Speed
from mixkd.metrics import Scores
from mixkd.train import Outcome


class ModelCard(Strict):
    """One of the two models, as it was evaluated."""

    family: str
    layers: int
    hidden_size: int
    parameters: int
    bytes: int = Field(description="of model.safetensors in float32; of the teacher, what it would take")
    validation: Scores
    test: Scores
    speed: Speed


class Comparison(Strict):
    """The student over the teacher."""

    accuracy_kept: float = Field(description="test accuracy, student / teacher")
    macro_f1_kept: float = Field(description="test macro-F1, student / teacher")
    parameters: float = Field(description="student / teacher")
    bytes: float = Field(description="student / teacher")
    latency: float = Field(description="p50 at batch 1, student / teacher: below 1 is faster")
    throughput: float = Field(description="at batch 32, student / teacher: above 1 is faster")


class Variant(Strict):
    """Which MixKD this was: the recipe's options in words, and what the paper leaves open."""

    student_from: str
    mixed_at: str
    shorter_row: str = "continued with zeros"
    attention_mask: str = "union of both rows"
    segment_ids: str = "of the row with the larger weight; at a tie of the lower row of the batch"
    positions: str = "of the sequence"
    weight: str = Field(description="how λ is drawn")
    partner: str
    batches: str = "rows of similar length, drawn anew each epoch"
    loss: str
    distance: str = Field(description="of L_TMKD")
    reductions: str = (
        "L_MLE and L_SM: mean over rows; L_TMKD: mean over mixed rows and, for MSE, over classes"
    )
    kd_on_real_rows: bool = False
    hidden_layers_matched: bool = False
    dropout: str = "on in the student; off in the teacher while it teaches"
    optimiser: str = "AdamW, betas 0.9 and 0.999; biases and LayerNorms do not decay"
    chosen_epoch: str = "highest validation accuracy, then lowest validation loss"


class FileCard(Strict):
    """One data file."""

    bytes: int
    sha256: str


class DataCard(Strict):
    """The data."""

    labels: list[str] = Field(description="in the order of the models' outputs")
    splits: SplitsUsed
    files: dict[Split, FileCard]


class Report(Strict):
    """The whole card."""

    format: Literal[1] = 1
    teacher: ModelCard
    student: ModelCard
    comparison: Comparison
    variant: Variant
    recipe: DistilSpec
    seed: int = Field(description="of everything: batches, pairs, λ, dropout, new heads")
    data: DataCard
    teach: Outcome | None = Field(description="null if the teacher was used as it came")
    distil: Outcome
    device: str
    threads: int
    versions: dict[str, str]


def compare(teacher: ModelCard, student: ModelCard) -> Comparison:
    """The ratios of two cards."""

    def ratio(above: float, below: float) -> float:
        return above / below if below else 0.0

    return Comparison(
        accuracy_kept=ratio(student.test.accuracy, teacher.test.accuracy),
        macro_f1_kept=ratio(student.test.macro_f1, teacher.test.macro_f1),
        parameters=ratio(student.parameters, teacher.parameters),
        bytes=ratio(student.bytes, teacher.bytes),
        latency=ratio(student.speed.latency_ms_p50, teacher.speed.latency_ms_p50),
        throughput=ratio(student.speed.examples_per_second, teacher.speed.examples_per_second),
    )


def describe(recipe: DistilSpec, *, fine_tuned: bool) -> Variant:
    """The variant that a recipe asks for."""
    mixup, loss = recipe.mixup, recipe.loss
    each = "every mixed row" if mixup.lambda_per == "example" else "a whole batch"
    distance = {
        "mse_logits": "mean squared error of logits",
        "mse_probabilities": "mean squared error of probabilities",
        "kl": f"T² · KL(teacher ‖ student), T = {loss.temperature:g}",
    }[loss.distance]
    which = "the teacher fine-tuned in this job" if fine_tuned else "the teacher as it came"
    return Variant(
        student_from=f"{which}: embeddings, first {recipe.student.layers} layers, head",
        mixed_at="word embeddings, before anything is added to them; each model mixes its own",
        weight=f"λ ~ Beta({mixup.alpha:g}, {mixup.alpha:g}), one for {each}",
        partner=f"a permutation of the batch, {mixup.ratio} mixed row(s) a real row",
        loss=f"L_MLE + {loss.sm_weight:g} · L_SM + {loss.tmkd_weight:g} · L_TMKD",
        distance=distance,
    )


def fingerprints(spec: RunSpec) -> dict[Split, FileCard]:
    """Size and SHA-256 of each data file."""
    cards: dict[Split, FileCard] = {}
    for split, path in spec.data.files.items():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            cards[split] = FileCard(bytes=file.tell(), sha256=digest)
    return cards


def versions() -> Mapping[str, str]:
    """Of Python and of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in ("mixkd", "torch", "transformers", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            found[name] = "unknown"
    return found


def device_name(device: torch.device) -> str:
    """What did the work, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`; it appears whole or not at all."""
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(report.model_dump_json(indent=2) + "\n")
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
