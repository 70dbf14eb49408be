"""Mixing examples (Liang et al., 2021, equations 4 and 5), and what the paper leaves open around it.

Shapes: B rows a batch, T positions, H width of the word embeddings, C classes, M mixed rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mixkd.contract.spec import MixupSpec


@dataclass(frozen=True)
class Pairs:
    """Which rows of a batch are mixed, and by how much: the same for teacher and student."""

    first: Tensor  # (M,) int64
    second: Tensor  # (M,) int64
    weight: Tensor  # (M,) float32: λ, the share of `first`; `second` has 1 − λ

    def to(self, device: torch.device) -> "Pairs":
        """The same pairs on a device."""
        return Pairs(self.first.to(device), self.second.to(device), self.weight.to(device))


def draw_pairs(rows: int, spec: MixupSpec, rng: np.random.Generator) -> Pairs:
    """Pair every row with one of its batch, `spec.ratio` times over: M = ratio · B.

    Each time over, the partners are a permutation of the batch, and λ ~ Beta(α, α) is drawn for every row or
    once for all.
    """
    partners = np.concatenate([rng.permutation(rows) for _ in range(spec.ratio)])
    if spec.lambda_per == "example":
        weight = rng.beta(spec.alpha, spec.alpha, size=spec.ratio * rows)
    else:
        weight = rng.beta(spec.alpha, spec.alpha, size=spec.ratio).repeat(rows)
    return Pairs(
        torch.arange(rows).repeat(spec.ratio),
        torch.from_numpy(partners),
        torch.from_numpy(weight.astype(np.float32)),
    )


def mix_words(words: Tensor, mask: Tensor, pairs: Pairs) -> Tensor:
    """Equation 4: λ·e(x_i) + (1 − λ)·e(x_j) at every position, the shorter row continued with zeros.

    Args:
        words: (B, T, H) word embeddings, nothing added to them yet.
        mask: (B, T) 1 at a token, 0 at padding, whose embedding is not zero in many tables.

    Returns:
        (M, T, H)
    """
    words = words * mask.unsqueeze(-1).to(words.dtype)
    weight = pairs.weight.to(words.dtype).view(-1, 1, 1)  # (M, 1, 1)
    return weight * words[pairs.first] + (1 - weight) * words[pairs.second]


def mix_labels(labels: Tensor, pairs: Pairs) -> Tensor:
    """Equation 5: λ·y_i + (1 − λ)·y_j.

    Args:
        labels: (B, C) one row of probabilities each.

    Returns:
        (M, C)
    """
    weight = pairs.weight.to(labels.dtype).unsqueeze(-1)  # (M, 1)
    return weight * labels[pairs.first] + (1 - weight) * labels[pairs.second]


def mix_mask(mask: Tensor, pairs: Pairs) -> Tensor:
    """The union: a mixed row is read where either of its rows has a token. (B, T) -> (M, T)."""
    return mask[pairs.first] | mask[pairs.second]


def mix_segments(segments: Tensor, pairs: Pairs) -> Tensor:
    """Segment ids cannot be mixed: those of the row with the larger weight; at a tie of the lower row.

    The rule is symmetric: (i, j, λ) and (j, i, 1 − λ) are the same mixed row. (B, T) -> (M, T).
    """
    first, second, weight = pairs.first, pairs.second, pairs.weight
    tie = torch.minimum(first, second)
    heavier = torch.where(weight > 0.5, first, torch.where(weight < 0.5, second, tie))
    return segments[heavier]
