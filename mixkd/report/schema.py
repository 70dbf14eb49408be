"""What `report.json` holds: docs/reference/report.md is made from it."""

from typing import Literal

from pydantic import Field

from mixkd.augment.card import AugmentCard
from mixkd.contract.data_spec import MetricName, SetName, Task
from mixkd.contract.spec import Baseline, DistilSpec
from mixkd.contract.strict import Strict
from mixkd.data import SetsUsed
from mixkd.evaluate import Speed
from mixkd.export.onnx_check import OnnxCard
from mixkd.report.curves import Point
from mixkd.report.judgement import BaselineScores, SetCard
from mixkd.report.provenance import FileCard, Fingerprints
from mixkd.report.variant import Variant
from mixkd.training.state import Outcome


class ModelCard(Strict):
    """One of the two models, as it was evaluated."""

    family: str
    layers: int
    hidden_size: int
    parameters: int
    bytes: int = Field(description="of model.safetensors in float32; of the teacher, what it would take")
    speed: Speed


class Comparison(Strict):
    """The student over the teacher."""

    metric: MetricName = Field(description="the first one, on the rows of `judged_on`")
    kept: float | None = Field(
        description="of it, student / teacher; null: of `rmse`, or the teacher's is not above 0"
    )
    parameters: float = Field(description="student / teacher")
    bytes: float = Field(description="student / teacher")
    latency: float = Field(description="p50 at batch 1, student / teacher: below 1 is faster")
    throughput: float = Field(description="at batch 32, student / teacher: above 1 is faster")


class Gap(Strict):
    """What a model loses on rows it learned from and on others: mean losses of labels, without dropout."""

    train_loss: float = Field(
        description="on real training rows, at most as many as there are validation rows"
    )
    validation_loss: float
    gap: float = Field(description="train minus validation")


class BaselineCard(Strict):
    """A student of the same start and batches, trained for as many steps with a simpler loss."""

    outcome: Outcome
    sets: dict[SetName, BaselineScores]


class DataCard(Strict):
    """The data."""

    labels: list[str] = Field(description="in the order of the models' outputs")
    text_pairs: bool = Field(description="whether a row is two texts")
    sets: SetsUsed
    skipped_rows: dict[SetName, int] = Field(description="that could not be read and were left out")
    texts_in_two_sets: int = Field(description="above 0 they flatter the models")
    score_range: tuple[float, float] | None = Field(description="of a regression: lowest and highest score")
    files: dict[SetName, FileCard]


class Report(Strict):
    """The whole card."""

    format: Literal[2] = 2
    task: Task
    teacher: ModelCard
    student: ModelCard
    judged_on: SetName = Field(description="the set that the headline numbers are of")
    sets: dict[SetName, SetCard] = Field(description="every set but the training rows")
    comparison: Comparison
    generalisation_gap: dict[str, Gap] = Field(description="of `teacher`, `student` and each baseline")
    baselines: dict[Baseline, BaselineCard]
    variant: Variant
    recipe: DistilSpec = Field(description="with all that was left open chosen")
    seed: int = Field(description="of everything: batches, pairs, λ, dropout, new heads, bootstrap")
    data: DataCard
    augmenters: list[AugmentCard] = Field(description="what made more training rows, in this order")
    onnx: list[OnnxCard] = Field(description="files of the student in another format, if they were asked for")
    fingerprints: Fingerprints
    teach: Outcome | None = Field(description="null if the teacher was used as it came")
    distil: Outcome = Field(description="of a regression in units of a standard deviation, as in `teach`")
    curves: list[Point] = Field(description="what was logged while models were trained, in the same units")
    device: str
    threads: int
    versions: dict[str, str]
    command: str = Field(description="what repeats the run; resolved.json lies beside the report")
