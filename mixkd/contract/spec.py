"""The recipe of a distillation (`DistilSpec`) and one concrete run of it (`RunSpec`).

Defaults are the paper's (Liang et al., ICLR 2021) where it states one; what it leaves open is an
option here, and the report card records which way it was decided. What describes the data is in `data_spec`.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from mixkd.contract.augment_spec import AugmentSpec
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.strict import Fraction, NotNegative, Positive, Strict

Preset = Literal["finetune", "kd", "tmkd", "sm", "mixkd"]
Baseline = Literal["finetune", "kd", "tmkd"]
Precision = Literal["fp32", "bf16", "fp16"]
Attention = Literal["eager", "sdpa"]

PRESETS: dict[Preset, dict[str, float]] = {
    "finetune": {"kd_weight": 0, "sm_weight": 0, "tmkd_weight": 0},
    "kd": {"kd_weight": 1, "sm_weight": 0, "tmkd_weight": 0},
    "tmkd": {"kd_weight": 0, "sm_weight": 0, "tmkd_weight": 1},
    "sm": {"kd_weight": 0, "sm_weight": 1, "tmkd_weight": 0},
    "mixkd": {"kd_weight": 0, "sm_weight": 1, "tmkd_weight": 1},
}
"""What each preset sets of `loss`; a weight that is given beside it wins."""


class TrainSpec(Strict):
    """How one network is trained: AdamW, a warm-up, a decay to zero, the best evaluation kept."""

    epochs: int = Field(3, ge=1, le=1000)
    batch_size: int = Field(32, ge=2, le=4096, description="rows a step; mixup needs at least two")
    learning_rate: Positive = 5e-5
    weight_decay: NotNegative = 0.01
    warmup_ratio: Fraction = Field(0.1, description="share of all steps spent warming up")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="what follows the warm-up; all but `constant` end at zero"
    )
    max_grad_norm: Positive = 1.0
    evaluations_per_epoch: int = Field(1, ge=1, le=100, description="on the validation rows")
    patience: int | None = Field(
        None, ge=1, le=1000, description="stop after so many evaluations without a better one; null: never"
    )


class TeachSpec(TrainSpec):
    """Fine-tuning the teacher inside the job, before it is distilled."""

    when: Literal["auto", "always", "never"] = Field(
        "auto",
        description="auto: only if the teacher has no classification head",
    )


def _number_or_list(value: object) -> object:
    """Say in one sentence what is wrong, where a union would give an error for each of its members."""
    if value is None or (type(value) is int and 1 <= value <= 1000):
        return value
    if isinstance(value, list | tuple) and value and all(type(n) is int and 0 <= n < 1000 for n in value):
        if all(a < b for a, b in pairwise(value)):
            return value
        raise PydanticCustomError(
            "layers", "the layers of the list do not rise", {"remedy": "name each once, lowest first"}
        )
    raise PydanticCustomError(
        "layers",
        "it is neither a number of layers nor a list of layers",
        {"remedy": "give an integer from 1 to 1000, or a list of integers from 0 on"},
    )


Layers = Annotated[
    Annotated[int, Field(ge=1, le=1000)] | tuple[Annotated[int, Field(ge=0, lt=1000)], ...] | None,
    BeforeValidator(_number_or_list),
]


class StudentSpec(Strict):
    """Which student, and what its weights start from.

    `teacher`: the (fine-tuned) teacher's embeddings, some of its encoder layers, and its head. `origin`: the
    same of the weights that the teacher had before it was fine-tuned; of a teacher that came fine-tuned
    they are the run's `student` folder. `model`: the encoder in the run's `student` folder, of whatever width
    and with its own tokenizer, under a new head. `config`: random weights, of the teacher's architecture and
    tokenizer.
    """

    init: Literal["teacher", "origin", "model", "config"] = "teacher"
    layers: Layers = Field(
        None,
        description="how many, or which, counted from 0; null: 3 of a teacher's, all of a model's; "
        "ALBERT's layers share their weights, so only their number counts there",
    )
    pick: Literal["first", "last", "even"] = Field(
        "first", description="which layers, where `layers` is a number; even: first, last and evenly between"
    )
    config: dict[str, int | float | str | bool] = Field(
        {}, description="for `config`: fields of config.json that differ from the teacher's"
    )

    @model_validator(mode="after")
    def _config_where_it_counts(self) -> Self:
        if self.config and self.init != "config":
            raise ValueError("`config` goes with `init: config` only")
        return self

    @model_validator(mode="after")
    def _pick_where_it_counts(self) -> Self:
        if isinstance(self.layers, tuple) and self.pick != "first":
            raise ValueError("`pick` goes with a number of `layers` only; these are named one by one")
        return self


class MixupSpec(Strict):
    """Equations 4 and 5: how example pairs are interpolated."""

    alpha: float = Field(0.4, ge=0.001, le=1000, description="λ ~ Beta(α, α)")
    lambda_per: Literal["example", "batch"] = "example"
    ratio: int = Field(1, ge=1, le=3, description="mixed rows per real row")
    partner: Literal["batch", "set"] = Field(
        "batch", description="a row's partner: of a permutation of its batch, or any training row"
    )
    mix_at: Literal["auto", "word", "embedding"] = Field(
        "auto",
        description="word: before anything is added to the word embeddings; embedding: after the embedding "
        "LayerNorm; auto: word, but embedding for the families whose LayerNorm would undo λ",
    )


class LossSpec(Strict):
    """Equation 8, and a term for plain distillation.

    L = mle_weight · L_MLE + kd_weight · L_KD + sm_weight · L_SM + tmkd_weight · L_TMKD.
    """

    mle_weight: NotNegative = Field(1.0, description="real rows and their labels")
    kd_weight: NotNegative = Field(0.0, description="real rows and the teacher; not in the paper")
    sm_weight: NotNegative = Field(1.0, description="mixed rows and their mixed labels")
    tmkd_weight: NotNegative = Field(1.0, description="mixed rows and the teacher")
    distance: Literal["mse_logits", "mse_probabilities", "kl"] = Field(
        "mse_logits", description="between student and teacher, in L_KD and L_TMKD"
    )
    temperature: float = Field(
        1.0, ge=0.01, le=1000, description="used by `kl` only; the loss is scaled by T²"
    )
    label_smoothing: Fraction = Field(
        0.0, description="share of each label spread over all classes, before labels are mixed"
    )
    class_weights: Literal["none", "balanced"] | dict[str, Positive] = Field(
        "none",
        description="of L_MLE and L_SM, by label; balanced: the rarer the heavier; scaled so that a training "
        "row weighs 1 on average",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not (self.mle_weight or self.kd_weight or self.sm_weight or self.tmkd_weight):
            raise ValueError("every weight is 0: there is nothing to learn")
        return self


class RuntimeSpec(Strict):
    """How it is computed. What is `auto` or null is chosen once and kept in the run's resolved spec."""

    precision: Literal["auto"] | Precision = Field(
        "auto", description="of the forward passes; weights stay in fp32. auto: bf16 on a GPU that has it"
    )
    attention: Literal["auto"] | Attention = "auto"
    micro_batch: int | None = Field(
        None, ge=1, le=4096, description="rows that go through the network at once; null: the whole batch"
    )
    threads: int | None = Field(None, ge=1, le=1024, description="of the CPU; null: as many as torch takes")
    deterministic: bool = Field(
        False, description="on CUDA: only kernels that give the same bits every time, some of them slower"
    )
    checkpoint_seconds: float = Field(
        60,
        ge=0,
        le=86400,
        description="between checkpoints, or more where writing one would take over 2 % of the time; "
        "0: one after every step",
    )
    keep_checkpoints: int = Field(2, ge=1, le=100)


class DistilSpec(Strict):
    """A recipe: everything that decides a student, apart from the teacher and the data."""

    preset: Preset = Field("mixkd", description="sets the weights of `loss` that are not given")
    student: StudentSpec = StudentSpec()
    teach: TeachSpec = TeachSpec()
    distil: TrainSpec = TrainSpec()
    mixup: MixupSpec = MixupSpec()
    loss: LossSpec = LossSpec()
    baselines: tuple[Baseline, ...] = Field(
        (), description="students of the same start and budget, trained beside it to compare with"
    )
    max_length: int = Field(128, ge=4, le=8192, description="tokens a row, special tokens included")
    train_examples: int | None = Field(
        None, ge=2, description="train on so many rows, drawn with the labels' shares kept"
    )
    train_fraction: float | None = Field(None, gt=0, le=1, description="likewise, as a share of the rows")
    seed: int = Field(0, ge=0, lt=2**32)
    runtime: RuntimeSpec = RuntimeSpec()
    onnx: bool = Field(False, description="export the student to ONNX too: fp32 and int8, each checked")

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        weights = PRESETS.get(given.get("preset", "mixkd"))
        loss = given.get("loss", {})
        if weights is None or not isinstance(loss, dict):
            return given  # their own fields say what is wrong
        return {**given, "loss": {**weights, **loss}}

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.train_examples is not None and self.train_fraction is not None:
            raise ValueError("give `train_examples` or `train_fraction`, not both")
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError("`baselines` names one twice")
        return self


class RunSpec(Strict):
    """One run: a recipe with the folders of the models and the files of the data.

    `python -m mixkd run spec.json --dir D` reads this; the worker writes it.
    """

    teacher: Path
    student: Path | None = Field(
        None,
        description="a model's folder, for `recipe.student.init` `model`, or `origin` of a tuned teacher",
    )
    data: DataSpec
    augment: tuple[AugmentSpec, ...] = Field((), description="what makes more training rows, in this order")
    recipe: DistilSpec = DistilSpec()
