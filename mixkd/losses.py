"""The losses (Liang et al., 2021), one function an equation. B rows, M mixed rows, C outputs.

Every one is a mean over rows, so that no weight changes its meaning with the batch size or mixup ratio.
What the paper says of classes is said here of three tasks: where a single label has the cross-entropy,
several labels have the binary cross-entropy of each, and a score has the squared error.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's users know it by
from torch import Tensor

from mixkd.contract.data_spec import Task
from mixkd.contract.spec import LossSpec


def mle(logits: Tensor, targets: Tensor, task: Task, class_weights: Tensor | None = None) -> Tensor:
    """Equation 3: how far the answers to real rows are from their labels. Both (B, C)."""
    return label_loss(logits, targets, task, class_weights)


def kd(student_logits: Tensor, teacher_logits: Tensor, task: Task, spec: LossSpec) -> Tensor:
    """How far the student is from the teacher on real rows; not a part of the paper's loss. Both (B, C)."""
    return distance(student_logits, teacher_logits, task, spec)


def tmkd(student_logits: Tensor, teacher_logits: Tensor, task: Task, spec: LossSpec) -> Tensor:
    """Equation 6: how far the student is from the teacher on mixed rows. Both (M, C)."""
    return distance(student_logits, teacher_logits, task, spec)


def sm(logits: Tensor, mixed_targets: Tensor, task: Task, class_weights: Tensor | None = None) -> Tensor:
    """Equation 7: how far the answers to mixed rows are from their mixed labels. Both (M, C)."""
    return label_loss(logits, mixed_targets, task, class_weights)


def total(mle_loss: Tensor, kd_loss: Tensor, sm_loss: Tensor, tmkd_loss: Tensor, spec: LossSpec) -> Tensor:
    """Equation 8, L_MLE + α_SM · L_SM + α_TMKD · L_TMKD, with weights of L_MLE and of L_KD as well."""
    return (
        spec.mle_weight * mle_loss
        + spec.kd_weight * kd_loss
        + spec.sm_weight * sm_loss
        + spec.tmkd_weight * tmkd_loss
    )


# -- labels ----------------------------------------------------------------------------------------------


def label_loss(logits: Tensor, targets: Tensor, task: Task, class_weights: Tensor | None) -> Tensor:
    """The task's loss against labels, which may be mixed. `class_weights` (C,): of a single label only."""
    if task == "single_label":
        return cross_entropy(logits, targets, class_weights)
    if task == "multi_label":
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.mse_loss(logits, targets)


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """−Σ_c w_c · y_c · log p_c, its mean over rows; `targets` hold probabilities. Both (B, C).

    The mean is over rows, not over their weights as in torch: a part of a batch must not be rescaled by
    the classes that happen to be in it.
    """
    weighted = targets if class_weights is None else targets * class_weights
    return -(weighted * logits.log_softmax(-1)).sum(-1).mean()


def smooth(targets: Tensor, task: Task, share: float) -> Tensor:
    """Labels of which `share` is spread evenly over what they could have been. (B, C) -> (B, C)."""
    if not share or task == "regression":
        return targets
    outcomes = targets.shape[-1] if task == "single_label" else 2  # a label of several is there or is not
    return (1 - share) * targets + share / outcomes


# -- distances between student and teacher ---------------------------------------------------------------


def distance(student_logits: Tensor, teacher_logits: Tensor, task: Task, spec: LossSpec) -> Tensor:
    """The distance that the recipe names. Both (B, C)."""
    if spec.distance == "mse_logits":
        return mse_logits(student_logits, teacher_logits)
    if spec.distance == "mse_probabilities":
        return mse_probabilities(student_logits, teacher_logits, task)
    if task == "multi_label":
        return binary_kl(student_logits, teacher_logits, spec.temperature)
    return kl(student_logits, teacher_logits, spec.temperature)


def mse_logits(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The squared difference of logits, its mean over rows and outputs. Both (B, C)."""
    return F.mse_loss(student_logits, teacher_logits)


def mse_probabilities(student_logits: Tensor, teacher_logits: Tensor, task: Task) -> Tensor:
    """The squared difference of probabilities, its mean over rows and outputs. Both (B, C)."""
    return F.mse_loss(probabilities(student_logits, task), probabilities(teacher_logits, task))


def probabilities(logits: Tensor, task: Task) -> Tensor:
    """What the answers of a classifier mean. (B, C) -> (B, C)."""
    return logits.sigmoid() if task == "multi_label" else logits.softmax(-1)


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, its mean over rows; 0 at equality. Both (B, C)."""
    student = (student_logits / temperature).log_softmax(-1)
    teacher = (teacher_logits / temperature).log_softmax(-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2  # keeps the gradient's scale when T changes


def binary_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) of each label by itself, its mean over rows and labels. Both (B, C)."""
    student, teacher = student_logits / temperature, teacher_logits / temperature
    there = F.logsigmoid(teacher).exp() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    absent = F.logsigmoid(-teacher).exp() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (there + absent).mean() * temperature**2  # keeps the gradient's scale when T changes


def class_weights(spec: LossSpec, labels: tuple[str, ...], counts: Tensor) -> Tensor | None:
    """The weight of each class, scaled so that a training row weighs 1 on average; None where all are 1.

    Args:
        counts: (C,) how often each class is the label of a training row; soft labels count by their shares.
    """
    if spec.class_weights == "none":
        return None
    if spec.class_weights == "balanced":
        weights = 1 / counts.clamp_min(1)  # a class without a row is never asked for its weight
    else:
        weights = torch.tensor([spec.class_weights.get(label, 1.0) for label in labels], dtype=counts.dtype)
    return weights * counts.sum() / (weights * counts).sum()
