"""The losses (Liang et al., 2021), one function an equation. B rows, M mixed rows, C classes.

Every one is a mean over rows, so that no weight changes its meaning with the batch size or mixup ratio.
"""

import torch.nn.functional as F  # noqa: N812 - the name that torch's users know it by
from torch import Tensor

from mixkd.contract.spec import LossSpec


def mle(logits: Tensor, labels: Tensor) -> Tensor:
    """Equation 3: the cross-entropy of real rows. `logits` (B, C), `labels` (B,) int64."""
    return F.cross_entropy(logits, labels)


def tmkd(student_logits: Tensor, teacher_logits: Tensor, spec: LossSpec) -> Tensor:
    """Equation 6: how far the student is from the teacher on mixed rows. Both (M, C)."""
    if spec.distance == "mse_logits":
        return mse_logits(student_logits, teacher_logits)
    if spec.distance == "mse_probabilities":
        return mse_probabilities(student_logits, teacher_logits)
    return kl(student_logits, teacher_logits, spec.temperature)


def sm(logits: Tensor, mixed_labels: Tensor) -> Tensor:
    """Equation 7: the cross-entropy of mixed rows. `logits` and `mixed_labels` (M, C)."""
    return F.cross_entropy(logits, mixed_labels)


def total(mle_loss: Tensor, sm_loss: Tensor, tmkd_loss: Tensor, spec: LossSpec) -> Tensor:
    """Equation 8: L = L_MLE + α_SM · L_SM + α_TMKD · L_TMKD."""
    return mle_loss + spec.sm_weight * sm_loss + spec.tmkd_weight * tmkd_loss


def mse_logits(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The squared difference of logits, its mean over rows and classes. Both (M, C)."""
    return F.mse_loss(student_logits, teacher_logits)


def mse_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The squared difference of probabilities, its mean over rows and classes. Both (M, C)."""
    return F.mse_loss(student_logits.softmax(-1), teacher_logits.softmax(-1))


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student) at temperature T, its mean over rows; 0 at equality. Both (M, C)."""
    student = (student_logits / temperature).log_softmax(-1)
    teacher = (teacher_logits / temperature).log_softmax(-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2  # keeps the gradient's scale when T changes
