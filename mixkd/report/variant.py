"""Which MixKD a run was: a recipe's options in words, with all that the paper leaves open."""

from collections.abc import Mapping

from pydantic import Field

from mixkd.classifier import MixAt
from mixkd.contract.data_spec import DataSpec, MetricName
from mixkd.contract.spec import DistilSpec, LossSpec, MixupSpec, StudentSpec, TrainSpec
from mixkd.contract.strict import Strict
from mixkd.objectives import needs_pairs

_NOTHING = "nothing is mixed"
_PLACES: dict[MixAt, str] = {
    "word": "word embeddings, before anything is added to them",
    "embedding": "the embedding block's output, after its LayerNorm, which would undo λ",
}
_PARTNERS = {"batch": "a permutation of the batch", "set": "any row of the training set"}
_SCHEDULES = {"linear": "linear to zero", "cosine": "a cosine to zero", "constant": "constant"}
_TERMS = {"mle": "L_MLE", "kd": "L_KD", "sm": "L_SM", "tmkd": "L_TMKD"}
_PRECISIONS = {"fp32": "fp32", "bf16": "bf16 in the forward passes", "fp16": "fp16 in the forward passes"}


class Variant(Strict):
    """Which MixKD this was: the recipe's options in words, and what the paper leaves open."""

    student_from: str
    mixed_at: str
    shorter_row: str = "continued with zeros"
    attention_mask: str = "union of both rows"
    segment_ids: str = "of the row with the larger weight; at a tie of the lower row of the training set"
    positions: str = "of the sequence"
    weight: str = Field(description="how λ is drawn")
    partner: str
    batches: str = "rows of similar length, drawn anew each epoch"
    targets: str = Field(description="what L_MLE and L_SM compare with")
    class_weights: str = Field(description="of L_MLE and L_SM")
    loss: str
    distance: str = Field(description="of L_KD and L_TMKD")
    reductions: str = (
        "L_MLE and L_SM: mean over rows; L_KD and L_TMKD: mean over rows and, but for KL over classes, over "
        "outputs"
    )
    kd_on_real_rows: bool
    hidden_layers_matched: bool = False
    dropout: str = "on in the student; off in the teacher while it teaches"
    optimiser: str
    precision: str
    chosen_weights: str


def describe(
    recipe: DistilSpec, data: DataSpec, *, fine_tuned: bool, layers: int, mixed_at: Mapping[str, MixAt]
) -> Variant:
    """The variant that a resolved recipe asks for.

    Args:
        fine_tuned: whether the teacher was fine-tuned in the job.
        layers: of the student.
        mixed_at: where `teacher` and `student` mix.
    """
    mixup, loss = recipe.mixup, recipe.loss
    mixes = needs_pairs(loss)
    return Variant(
        student_from=student_from(recipe.student, layers, fine_tuned=fine_tuned),
        mixed_at=_places(mixed_at) if mixes else _NOTHING,
        weight=_weight(mixup) if mixes else _NOTHING,
        partner=f"{_PARTNERS[mixup.partner]}, {mixup.ratio} mixed row(s) a real row" if mixes else _NOTHING,
        targets=_targets(loss, data),
        class_weights=_class_weights(loss),
        loss=_sum(loss),
        distance=_distance(loss),
        kd_on_real_rows=bool(loss.kd_weight),
        optimiser=_optimiser(recipe.distil),
        precision=_PRECISIONS.get(recipe.runtime.precision, recipe.runtime.precision),
        chosen_weights=_chosen(data.scored_by[0]),
    )


def student_from(spec: StudentSpec, layers: int, *, fine_tuned: bool) -> str:
    """What the student's weights started from."""
    if spec.init == "config":
        changed = "".join(f", {name} {value}" for name, value in sorted(spec.config.items()))
        return f"random weights, the teacher's architecture with {layers} layers{changed}"
    source, head = {
        "teacher": (f"the teacher{', fine-tuned in this job' if fine_tuned else ' as it came'}", "its head"),
        "origin": ("the teacher before it was fine-tuned", "a new head"),
        "model": ("another pre-trained model, with its own tokenizer", "a new head"),
    }[spec.init]
    return f"{source}: embeddings, {_layers(spec, layers)}, {head}"


def _layers(spec: StudentSpec, layers: int) -> str:
    if isinstance(spec.layers, tuple):
        return f"encoder layers {', '.join(map(str, spec.layers))} (counted from 0)"
    if spec.init == "model" and spec.layers is None:
        return f"all {layers} encoder layers"
    return (
        f"{layers} evenly spaced encoder layers"
        if spec.pick == "even"
        else f"{spec.pick} {layers} encoder layers"
    )


def _places(mixed_at: Mapping[str, MixAt]) -> str:
    teacher, student = mixed_at["teacher"], mixed_at["student"]
    if teacher == student:
        return f"{_PLACES[student]}; each model mixes its own"
    return f"teacher: {_PLACES[teacher]}; student: {_PLACES[student]}; each model mixes its own"


def _weight(mixup: MixupSpec) -> str:
    each = "every mixed row" if mixup.lambda_per == "example" else "a whole batch"
    return f"λ ~ Beta({mixup.alpha:g}, {mixup.alpha:g}), one for {each}"


def _targets(loss: LossSpec, data: DataSpec) -> str:
    if data.task == "regression":
        return "scores, with mean 0 and standard deviation 1 over the training rows while models are trained"
    if loss.label_smoothing:
        return f"labels, {loss.label_smoothing:g} of each spread evenly over what it could have been"
    return "labels as they are"


def _class_weights(loss: LossSpec) -> str:
    if isinstance(loss.class_weights, dict):
        return "given; scaled so that a training row weighs 1 on average"
    if loss.class_weights == "balanced":
        return "the rarer the heavier; scaled so that a training row weighs 1 on average"
    return "none"


def _sum(loss: LossSpec) -> str:
    weights = {symbol: getattr(loss, f"{name}_weight") for name, symbol in _TERMS.items()}
    return " + ".join(
        symbol if weight == 1 else f"{weight:g} · {symbol}" for symbol, weight in weights.items() if weight
    )


def _distance(loss: LossSpec) -> str:
    if not (loss.kd_weight or loss.tmkd_weight):
        return "the teacher is not asked"
    return {
        "mse_logits": "mean squared error of logits",
        "mse_probabilities": "mean squared error of probabilities",
        "kl": f"T² · KL(teacher ‖ student), T = {loss.temperature:g}",
    }[loss.distance]


def _optimiser(spec: TrainSpec) -> str:
    return (
        "AdamW, betas 0.9 and 0.999; biases and LayerNorms do not decay; gradients clipped at a norm of "
        f"{spec.max_grad_norm:g}; warm-up over {spec.warmup_ratio:.0%} of the steps, then "
        f"{_SCHEDULES[spec.schedule]}"
    )


def _chosen(metric: MetricName) -> str:
    best = "lowest" if metric == "rmse" else "highest"
    return f"{best} {metric} on the validation rows, then lowest loss"
