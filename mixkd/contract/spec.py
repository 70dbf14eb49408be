"""The recipe of a distillation (`DistilSpec`) and one concrete run of it (`RunSpec`).

Defaults are the paper's (Liang et al., ICLR 2021) where it states one; what it leaves open is an
option here, and the report card records which way it was decided.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

DataFormat = Literal["jsonl", "csv", "tsv"]
Split = Literal["train", "validation", "test"]


class Strict(BaseModel):
    """A value object: unknown fields are refused (a typo must not be ignored) and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainSpec(Strict):
    """How one network is trained: AdamW, linear warm-up, linear decay to zero."""

    epochs: int = Field(3, ge=1, le=1000)
    batch_size: int = Field(32, ge=2, le=4096, description="rows a step; mixup needs at least two")
    learning_rate: Positive = 5e-5
    weight_decay: NotNegative = 0.01
    warmup_ratio: Fraction = Field(0.1, description="share of all steps spent warming up")
    max_grad_norm: Positive = 1.0


class TeachSpec(TrainSpec):
    """Fine-tuning the teacher inside the job, before it is distilled."""

    when: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: only if the teacher has no classification head",
    )


class StudentSpec(Strict):
    """Which student: the teacher's embeddings, its first `layers` encoder layers, and its head."""

    layers: int = Field(3, ge=1, le=1000)


class MixupSpec(Strict):
    """Equations 4 and 5: how example pairs are interpolated."""

    alpha: float = Field(0.4, ge=0.001, le=1000, description="λ ~ Beta(α, α)")
    lambda_per: Literal["example", "batch"] = "example"
    ratio: int = Field(1, ge=1, le=3, description="mixed rows per real row")


class LossSpec(Strict):
    """Equation 8: L = L_MLE + sm_weight · L_SM + tmkd_weight · L_TMKD."""

    sm_weight: NotNegative = 1.0
    tmkd_weight: NotNegative = 1.0
    distance: Literal["mse_logits", "mse_probabilities", "kl"] = "mse_logits"
    temperature: float = Field(
        1.0, ge=0.01, le=1000, description="used by `kl` only; the loss is scaled by T²"
    )


class DistilSpec(Strict):
    """A recipe: everything that decides a student, apart from the teacher and the data."""

    student: StudentSpec = StudentSpec()
    teach: TeachSpec = TeachSpec()
    distil: TrainSpec = TrainSpec()
    mixup: MixupSpec = MixupSpec()
    loss: LossSpec = LossSpec()
    max_length: int = Field(128, ge=4, le=8192, description="tokens a row, special tokens included")
    seed: int = Field(0, ge=0, lt=2**32)


ColumnName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]


class Columns(Strict):
    """Which column of a data file holds what."""

    text: ColumnName = "text"
    text_pair: ColumnName | None = None
    label: ColumnName = "label"


class DataSpec(Strict):
    """Labelled texts: one file per split, all of one format."""

    files: dict[Split, Path]
    format: DataFormat = "jsonl"
    columns: Columns = Columns()


class RunSpec(Strict):
    """One run: a recipe with the folder of the teacher and the files of the data.

    `python -m mixkd run spec.json --dir D` reads this; the worker writes it.
    """

    teacher: Path
    data: DataSpec
    recipe: DistilSpec = DistilSpec()
