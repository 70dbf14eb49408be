"""Mixing examples (Liang et al., 2021, equations 4 and 5), and what the paper leaves open around it.

Shapes: B rows a batch, U rows at hand, T positions, H width of the embeddings, C outputs, M mixed rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixkd.contract.spec import MixupSpec


@dataclass(frozen=True)
class Pairs:
    """Which of the rows at hand are mixed, and by how much: the same for teacher and student."""

    first: Tensor  # (M,) int64, positions among the U rows
    second: Tensor  # (M,) int64
    heavier: Tensor  # (M,) int64: the one with the larger weight; at a tie the lower row of the data set
    weight: Tensor  # (M,) float32: λ, the share of `first`; `second` has 1 − λ

    def to(self, device: torch.device) -> "Pairs":
        """The same pairs on a device."""
        return Pairs(
            self.first.to(device, non_blocking=True),
            self.second.to(device, non_blocking=True),
            self.heavier.to(device, non_blocking=True),
            self.weight.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Drawn:
    """The pairs of a batch as rows of the data set: `copies` times over, every row of the batch leads one."""

    first: NDArray[np.int64]  # (M,), M = copies · B
    second: NDArray[np.int64]  # (M,)
    weight: NDArray[np.float32]  # (M,)
    copies: int

    def led_by(self, start: int, end: int) -> "Drawn":
        """The pairs that rows `start` to `end` of the batch lead."""

        def cut(values: NDArray[np.generic]) -> NDArray[np.generic]:
            return values.reshape(self.copies, -1)[:, start:end].reshape(-1)

        return Drawn(cut(self.first), cut(self.second), cut(self.weight), self.copies)  # type: ignore[arg-type]  # each keeps its type

    def within(self, rows: NDArray[np.int64]) -> Pairs:
        """The pairs as positions in `rows`, which hold every row of theirs once."""
        order = np.argsort(rows)

        def place(wanted: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(order[np.searchsorted(rows, wanted, sorter=order)])

        tie = np.minimum(self.first, self.second)
        heavier = np.where(self.weight > 0.5, self.first, np.where(self.weight < 0.5, self.second, tie))
        return Pairs(
            place(self.first), place(self.second), place(heavier), torch.from_numpy(self.weight.copy())
        )


def draw_pairs(batch: NDArray[np.int64], population: int, spec: MixupSpec, rng: np.random.Generator) -> Drawn:
    """Pair every row of a batch, `spec.ratio` times over, and draw the weights λ ~ Beta(α, α).

    The partners are each time a permutation of the batch, or rows drawn from the whole set of `population`
    rows (the paper's Remark 4: "an extra random sample from the training data"); λ is drawn for every pair or
    once for all pairs of a time.
    """
    size, copies = len(batch), spec.ratio
    if spec.partner == "batch":
        second = np.concatenate([batch[rng.permutation(size)] for _ in range(copies)])
    else:
        second = rng.integers(population, size=copies * size, dtype=np.int64)
    if spec.lambda_per == "example":
        weight = rng.beta(spec.alpha, spec.alpha, size=copies * size)
    else:
        weight = rng.beta(spec.alpha, spec.alpha, size=copies).repeat(size)
    return Drawn(np.tile(batch, copies), second, weight.astype(np.float32), copies)


def mix_words(words: Tensor, mask: Tensor, pairs: Pairs) -> Tensor:
    """Equation 4: λ·e(x_i) + (1 − λ)·e(x_j) at every position, the shorter row continued with zeros.

    Args:
        words: (U, T, H) word embeddings, nothing added to them yet; or, for the families whose embedding
            LayerNorm would undo λ, what that LayerNorm makes of them.
        mask: (U, T) 1 at a token, 0 at padding, whose embedding is not zero in many tables.

    Returns:
        (M, T, H)
    """
    words = words * mask.unsqueeze(-1).to(words.dtype)
    weight = pairs.weight.to(words.dtype).view(-1, 1, 1)  # (M, 1, 1)
    return weight * words[pairs.first] + (1 - weight) * words[pairs.second]


def mix_labels(labels: Tensor, pairs: Pairs) -> Tensor:
    """Equation 5: λ·y_i + (1 − λ)·y_j. (U, C) -> (M, C).

    A label is a row of probabilities, of zeros and ones, or a score.
    """
    weight = pairs.weight.to(labels.dtype).unsqueeze(-1)  # (M, 1)
    return weight * labels[pairs.first] + (1 - weight) * labels[pairs.second]


def mix_mask(mask: Tensor, pairs: Pairs) -> Tensor:
    """The union: a mixed row is read where either of its rows has a token. (U, T) -> (M, T)."""
    return mask[pairs.first] | mask[pairs.second]


def mix_segments(segments: Tensor, pairs: Pairs) -> Tensor:
    """Segment ids cannot be mixed: those of the heavier row. (U, T) -> (M, T).

    The rule is symmetric: (i, j, λ) and (j, i, 1 − λ) are the same mixed row.
    """
    return segments[pairs.heavier]
