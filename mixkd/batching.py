"""Batches of rows of similar length, drawn anew each epoch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixkd.data import Encoded

Indices = NDArray[np.int64]
_POOL = 64  # batches that are sorted by length together: enough to save padding, few enough to stay random


@dataclass(frozen=True)
class Batch:
    """B rows, padded to the longest one, T tokens."""

    tokens: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) int64: 1 at a token, 0 at padding
    segments: Tensor  # (B, T) int64
    labels: Tensor  # (B,) int64

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
            self.segments.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
        )


def batch_count(rows: int, batch_size: int) -> int:
    """Batches an epoch; one is larger than asked only where a batch of one row would be the alternative."""
    count = -(-rows // batch_size)
    return count - 1 if count > 1 and rows // count < 2 else count


def epoch_batches(lengths: Indices, batch_size: int, rng: np.random.Generator) -> list[Indices]:
    """Every row once, in batches of nearly equal size and similar length, in random order."""
    order = rng.permutation(len(lengths))
    pools = range(0, len(order), batch_size * _POOL)
    order = np.concatenate([_sorted(order[at : at + batch_size * _POOL], lengths) for at in pools])
    batches = np.array_split(order, batch_count(len(lengths), batch_size))
    return [batches[number] for number in rng.permutation(len(batches))]


def ordered_batches(lengths: Indices, batch_size: int) -> list[Indices]:
    """Every row once, shortest first: for evaluation, where order changes nothing."""
    order = _sorted(np.arange(len(lengths)), lengths)
    return np.array_split(order, -(-len(order) // batch_size))


def _sorted(rows: Indices, lengths: Indices) -> Indices:
    return rows[np.argsort(lengths[rows], kind="stable")]


def collate(rows: Encoded, indices: Indices, pad_id: int) -> Batch:
    """The rows at `indices` as one padded batch."""
    longest = int((rows.starts[indices + 1] - rows.starts[indices]).max())
    tokens = np.full((len(indices), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(tokens)
    segments = np.zeros_like(tokens)
    for line, index in enumerate(indices):
        start, end = rows.starts[index], rows.starts[index + 1]
        tokens[line, : end - start] = rows.tokens[start:end]
        segments[line, : end - start] = rows.segments[start:end]
        mask[line, : end - start] = 1
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(mask),
        torch.from_numpy(segments),
        torch.from_numpy(rows.labels[indices]),
    )
