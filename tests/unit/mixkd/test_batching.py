"""Batches hold every row once, of similar length, the same for the same seed."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixkd.batching import batch_count, collate, epoch_batches, ordered_batches
from mixkd.data import Encoded

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=300).map(np.array)


@given(lengths, st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_an_epoch_has_every_row_exactly_once(lengths: np.ndarray, size: int, seed: int) -> None:
    batches = epoch_batches(lengths, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == batch_count(len(lengths), size)
    if len(lengths) > 1:
        assert min(map(len, batches)) >= 2
    assert max(map(len, batches)) <= (size if size > 2 else 3)


@given(lengths, st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_a_seed_decides_the_batches(lengths: np.ndarray, size: int, seed: int) -> None:
    once, again = (epoch_batches(lengths, size, np.random.default_rng(seed)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))


@given(lengths, st.integers(2, 40))
def test_evaluation_sees_every_row_exactly_once(lengths: np.ndarray, size: int) -> None:
    batches = ordered_batches(lengths, size)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


def test_rows_of_a_batch_have_similar_lengths_and_batches_come_in_no_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, size=1600)  # one pool
    batches = epoch_batches(lengths, 32, np.random.default_rng(1))
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.1 * lengths.sum()  # unsorted batches would take about twice the sum
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest != sorted(longest)


def test_rows_meet_other_rows_in_the_next_epoch() -> None:
    lengths = np.full(64, 7)
    first, second = (
        {frozenset(batch.tolist()) for batch in epoch_batches(lengths, 8, np.random.default_rng(epoch))}
        for epoch in (1, 2)
    )
    assert not first & second


def test_collate_pads_to_the_longest_of_its_rows() -> None:
    rows = Encoded(
        tokens=np.array([5, 6, 7, 8, 9, 4], dtype=np.int32),
        segments=np.array([0, 1, 1, 0, 0, 1], dtype=np.uint8),
        starts=np.array([0, 3, 4, 6]),
        labels=np.array([2, 0, 1]),
    )
    batch = collate(rows, np.array([2, 1]), pad_id=99)
    assert batch.tokens.tolist() == [[9, 4], [8, 99]]
    assert batch.mask.tolist() == [[1, 1], [1, 0]]
    assert batch.segments.tolist() == [[0, 1], [0, 0]]
    assert batch.labels.tolist() == [1, 0]
    assert batch.tokens.dtype == torch.int64
