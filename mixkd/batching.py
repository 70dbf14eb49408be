"""Which rows a step works on: batches of similar length, drawn anew each epoch, and the parts of a batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixkd.data import Encoded
from mixkd.mixup import Drawn, Pairs

Indices = NDArray[np.int64]
_POOL = 64  # batches that are sorted by length together: enough to save padding, few enough to stay random


@dataclass(frozen=True)
class Batch:
    """B rows, padded to the longest one, T tokens; C outputs."""

    tokens: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) int64: 1 at a token, 0 at padding
    segments: Tensor  # (B, T) int64
    targets: Tensor  # (B, C) float32: probabilities, 0 and 1 of a multi-label task, or the score

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            self.tokens.to(device, non_blocking=True),
            self.mask.to(device, non_blocking=True),
            self.segments.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Part:
    """What goes through the networks at once: R real rows of a batch and the M mixed rows that they lead.

    A part names rows of the data set, never tokens: teacher and student may have different tokenizers.
    """

    rows: Indices  # (U,): the R real rows, then partners that are not among them
    real: int  # R
    pairs: Pairs | None  # M = ratio · R of them, as positions in `rows`; None: nothing is mixed
    share: float  # R over the rows of the whole batch


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


def parts(batch: Indices, drawn: Drawn | None, micro_batch: int | None) -> Iterator[Part]:
    """Cut a batch into parts of at most `micro_batch` real rows each.

    The loss of the batch is the sum of its parts' losses, each times its `share`: whatever the cut, the
    gradient is the same but for rounding.
    """
    size = micro_batch or len(batch)
    for start in range(0, len(batch), size):
        real = batch[start : start + size]
        share = len(real) / len(batch)
        if drawn is None:
            yield Part(real, len(real), None, share)
            continue
        led = drawn.led_by(start, start + len(real))
        rows = np.concatenate([real, np.setdiff1d(led.second, real)])
        yield Part(rows, len(real), led.within(rows), share)


def collate(encoded: Encoded, indices: Indices) -> Batch:
    """The rows at `indices` as one padded batch."""
    longest = int((encoded.starts[indices + 1] - encoded.starts[indices]).max())
    tokens = np.full((len(indices), longest), encoded.pad_id, dtype=np.int64)
    mask = np.zeros_like(tokens)
    segments = np.zeros_like(tokens)
    for line, index in enumerate(indices):
        start, end = encoded.starts[index], encoded.starts[index + 1]
        tokens[line, : end - start] = encoded.tokens[start:end]
        segments[line, : end - start] = encoded.segments[start:end]
        mask[line, : end - start] = 1
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(mask),
        torch.from_numpy(segments),
        torch.from_numpy(encoded.targets_of(indices)),
    )
