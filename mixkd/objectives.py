"""What a training step minimises: from a batch to its loss, and the terms worth logging."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's users know it by
from torch import Tensor
from transformers import PreTrainedModel

from mixkd import losses, mixup
from mixkd.batching import Batch
from mixkd.classifier import embed, logits, ready_to_answer
from mixkd.contract.spec import DistilSpec
from mixkd.randomness import generator

Objective = Callable[[Batch, int], dict[str, Tensor]]
"""From a batch and the number of the step to `loss` and its terms, all scalars."""


def finetune(model: PreTrainedModel) -> Objective:
    """Equation 3 alone."""

    def objective(batch: Batch, _step: int) -> dict[str, Tensor]:
        found = logits(model, embed(model, batch.tokens), batch.mask, batch.segments)
        return {"loss": losses.mle(found, batch.labels)}

    return objective


def mixkd(student: PreTrainedModel, teacher: PreTrainedModel, recipe: DistilSpec) -> Objective:
    """Equation 8. What has the weight 0 is not computed. The teacher's dropout is switched off."""
    spec = recipe.loss
    ready_to_answer(teacher)

    def objective(batch: Batch, step: int) -> dict[str, Tensor]:
        rows = len(batch.labels)  # B
        words = embed(student, batch.tokens)  # (B, T, H)
        if spec.sm_weight == spec.tmkd_weight == 0:
            loss = losses.mle(logits(student, words, batch.mask, batch.segments), batch.labels)
            return {"loss": loss}

        rng = generator(recipe.seed, "distil", "pairs", step)
        pairs = mixup.draw_pairs(rows, recipe.mixup, rng).to(words.device)  # M = ratio · B of them
        mask = mixup.mix_mask(batch.mask, pairs)  # (M, T)
        segments = mixup.mix_segments(batch.segments, pairs)  # (M, T)

        # Real and mixed rows go through the student together: rows do not see each other.
        found = logits(
            student,
            torch.cat([words, mixup.mix_words(words, batch.mask, pairs)]),
            torch.cat([batch.mask, mask]),
            torch.cat([batch.segments, segments]),
        )
        real, mixed = found.tensor_split([rows])  # (B, C), (M, C)

        zero = found.new_zeros(())
        mle, sm, tmkd = losses.mle(real, batch.labels), zero, zero
        if spec.sm_weight:
            one_hot = F.one_hot(batch.labels, found.shape[-1]).to(found.dtype)  # (B, C)
            sm = losses.sm(mixed, mixup.mix_labels(one_hot, pairs))
        if spec.tmkd_weight:
            tmkd = losses.tmkd(mixed, _teach(teacher, batch, pairs, mask, segments), spec)
        return {"loss": losses.total(mle, sm, tmkd, spec), "mle": mle, "sm": sm, "tmkd": tmkd}

    return objective


def _teach(
    teacher: PreTrainedModel, batch: Batch, pairs: mixup.Pairs, mask: Tensor, segments: Tensor
) -> Tensor:
    """The teacher's logits on the same mixed rows, mixed in its own embedding table: (M, C)."""
    with torch.inference_mode():
        words = mixup.mix_words(embed(teacher, batch.tokens), batch.mask, pairs)
        found = logits(teacher, words, mask, segments)
    return found.clone()  # a tensor made in inference mode cannot take part in a backward pass
