"""What a training step minimises: from a part of a batch to its loss, and the terms worth logging."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixkd import losses, mixup
from mixkd.batching import Batch, Part, collate
from mixkd.classifier import MixAt, embed, logits, ready_to_answer
from mixkd.contract.data_spec import Task
from mixkd.contract.spec import LossSpec
from mixkd.data import Encoded

Objective = Callable[[Part], dict[str, Tensor]]
"""From a part to `loss` and its terms: scalars in the precision of the weights, means over rows."""


@dataclass(frozen=True)
class Network:
    """A model with the training rows as its own tokenizer cut them, and where it mixes."""

    model: PreTrainedModel
    rows: Encoded
    mix_at: MixAt = "word"

    def collate(self, part: Part) -> Batch:
        """The rows of a part, on the model's device."""
        return collate(self.rows, part.rows).to(self.model.device)


def imitate(
    student: Network,
    teacher: Network | None,
    loss: LossSpec,
    task: Task,
    class_weights: Tensor | None = None,
) -> Objective:
    """Equation 8 and its special cases. What has the weight 0 is not computed.

    Args:
        teacher: None where no term asks it. Its dropout is switched off.
        class_weights: (C,), see `losses.class_weights`.
    """
    if teacher is not None:
        ready_to_answer(teacher.model)

    def objective(part: Part) -> dict[str, Tensor]:
        batch = student.collate(part)
        pairs = None if part.pairs is None else part.pairs.to(batch.tokens.device)
        real, mixed = _answers(student, batch, part.real, pairs, real=bool(loss.mle_weight or loss.kd_weight))
        labels = losses.smooth(batch.targets, task, loss.label_smoothing)  # (U, C)
        zero = labels.new_zeros(())
        mle, kd, sm, tmkd = zero, zero, zero, zero
        if loss.mle_weight:
            mle = losses.mle(real, labels[: part.real], task, class_weights)
        if loss.sm_weight:
            assert pairs is not None
            sm = losses.sm(mixed, mixup.mix_labels(labels, pairs), task, class_weights)
        if loss.kd_weight or loss.tmkd_weight:
            assert teacher is not None
            taught_real, taught_mixed = _teach(teacher, part, pairs, loss)
            if loss.kd_weight:
                kd = losses.kd(real, taught_real, task, loss)
            if loss.tmkd_weight:
                tmkd = losses.tmkd(mixed, taught_mixed, task, loss)
        terms = {"mle": mle, "kd": kd, "sm": sm, "tmkd": tmkd}
        used = {name: value for name, value in terms.items() if getattr(loss, f"{name}_weight")}
        return {"loss": losses.total(mle, kd, sm, tmkd, loss), **used}

    return objective


def needs_pairs(loss: LossSpec) -> bool:
    """Whether a term is about mixed rows."""
    return bool(loss.sm_weight or loss.tmkd_weight)


def needs_teacher(loss: LossSpec) -> bool:
    """Whether a term asks the teacher."""
    return bool(loss.kd_weight or loss.tmkd_weight)


def _answers(
    network: Network, batch: Batch, real_rows: int, pairs: mixup.Pairs | None, *, real: bool
) -> tuple[Tensor, Tensor]:
    """The model's logits on the real rows, (R, C), and on the mixed ones, (M, C); an empty one for none.

    Both kinds go through the model together: rows do not see each other.
    """
    words = embed(network.model, batch.tokens, batch.segments, network.mix_at)  # (U, T, H)
    ready = [(words[:real_rows], batch.mask[:real_rows], batch.segments[:real_rows])] if real else []
    if pairs is not None:
        ready.append(
            (
                mixup.mix_words(words, batch.mask, pairs),  # (M, T, H)
                mixup.mix_mask(batch.mask, pairs),  # (M, T)
                mixup.mix_segments(batch.segments, pairs),  # (M, T)
            )
        )
    inputs, masks, segments = (torch.cat(tensors) for tensors in zip(*ready, strict=True))
    # Under autocast the answers come in half precision; losses are computed in that of the weights.
    found = logits(network.model, inputs, masks, segments, network.mix_at).to(words.dtype)
    split = found.tensor_split([real_rows if real else 0])
    return split[0], split[1]


def _teach(teacher: Network, part: Part, pairs: mixup.Pairs | None, loss: LossSpec) -> tuple[Tensor, Tensor]:
    """The teacher's logits on the same rows, mixed in its own embeddings, by the same pairs and λ."""
    with torch.inference_mode():
        found = _answers(
            teacher,
            teacher.collate(part),
            part.real,
            pairs if loss.tmkd_weight else None,
            real=bool(loss.kd_weight),
        )
    # A tensor made in inference mode cannot take part in a backward pass.
    return found[0].clone(), found[1].clone()
