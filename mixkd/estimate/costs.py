"""What the steps of a training have to compute, counted before any of them is made."""

from dataclasses import dataclass

import numpy as np

from mixkd.batching import Indices, epoch_batches, parts
from mixkd.contract.spec import LossSpec, MixupSpec, TrainSpec
from mixkd.data import Encoded
from mixkd.mixup import draw_pairs
from mixkd.objectives import needs_pairs
from mixkd.randomness import generator


@dataclass(frozen=True)
class Step:
    """One step: its rows, their tokens, and the tokens that go through the network.

    Those are of real and of mixed rows, each as long as the longest row of its part of the batch.
    """

    rows: Indices
    tokens: int
    padded: int


def first_epoch(
    rows: Encoded,
    spec: TrainSpec,
    loss: LossSpec,
    mixup: MixupSpec,
    *,
    micro_batch: int | None,
    seed: int,
    stream: str,
) -> list[Step]:
    """The steps of a training's first epoch, drawn as the training draws them."""
    lengths = rows.lengths
    batches = epoch_batches(lengths, spec.batch_size, generator(seed, stream, "batches", 1))
    real = bool(loss.mle_weight or loss.kd_weight)
    steps = []
    for number, batch in enumerate(batches):
        drawn = None
        if needs_pairs(loss):
            drawn = draw_pairs(batch, len(rows), mixup, generator(seed, stream, "pairs", number))
        padded = 0
        for part in parts(batch, drawn, micro_batch):
            mixed = 0 if part.pairs is None else len(part.pairs.weight)
            padded += (real * part.real + mixed) * int(lengths[part.rows].max())
        steps.append(Step(batch, int(lengths[batch].sum()), padded))
    return steps


def seconds(padded: int, short: tuple[int, float], long: tuple[int, float]) -> float:
    """The time of so many padded tokens, on the straight line through two measured batches.

    Args:
        short, long: padded tokens and seconds of each. Noise can make the line steeper than one from the
            origin or let it fall; neither is believed.
    """
    more = long[0] - short[0]
    slope = (long[1] - short[1]) / more if more > 0 else long[1] / long[0]
    slope = float(np.clip(slope, 0, long[1] / long[0]))
    return long[1] + slope * (padded - long[0])
