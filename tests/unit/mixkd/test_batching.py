"""Batches hold every row once, of similar length, the same for the same seed."""

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixkd.batching import batch_count, collate, epoch_batches, ordered_batches, parts
from mixkd.contract.spec import MixupSpec
from mixkd.data import Encoded
from mixkd.mixup import draw_pairs

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


def rows_of_two_texts(targets: np.ndarray, outputs: int = 3) -> Encoded:
    return Encoded(
        tokens=np.array([5, 6, 7, 8, 9, 4], dtype=np.int32),
        segments=np.array([0, 1, 1, 0, 0, 1], dtype=np.uint8),
        starts=np.array([0, 3, 4, 6]),
        targets=targets,
        outputs=outputs,
        pad_id=99,
    )


def test_collate_pads_to_the_longest_of_its_rows() -> None:
    batch = collate(rows_of_two_texts(np.array([2, 0, 1])), np.array([2, 1]))
    assert batch.tokens.tolist() == [[9, 4], [8, 99]]
    assert batch.mask.tolist() == [[1, 1], [1, 0]]
    assert batch.segments.tolist() == [[0, 1], [0, 0]]
    assert batch.targets.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert batch.tokens.dtype == torch.int64


def test_soft_labels_and_scores_are_batched_as_they_are() -> None:
    soft = np.array([[0.2, 0.8], [1, 0], [0.5, 0.5]], dtype=np.float32)
    assert collate(rows_of_two_texts(soft, 2), np.array([0, 2])).targets.tolist() == [
        [pytest.approx(0.2), pytest.approx(0.8)],
        [0.5, 0.5],
    ]


@given(
    st.integers(2, 30),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from(["batch", "set"]),
    st.integers(0),
)
def test_parts_are_the_batch_and_its_pairs_however_they_are_cut(
    size: int, micro_batch: int, ratio: int, partner: Literal["batch", "set"], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    batch = rng.permutation(100)[:size]
    drawn = draw_pairs(batch, 100, MixupSpec(ratio=ratio, partner=partner), rng)
    cut = list(parts(batch, drawn, micro_batch))
    assert np.concatenate([part.rows[: part.real] for part in cut]).tolist() == batch.tolist()
    assert sum(part.share for part in cut) == pytest.approx(1)
    found = set()
    for part in cut:
        assert part.pairs is not None
        assert part.real <= micro_batch
        assert len(part.pairs.weight) == ratio * part.real
        assert len(set(part.rows.tolist())) == len(part.rows)
        assert set(part.pairs.first.tolist()) == set(range(part.real))
        found |= set(
            zip(
                part.rows[part.pairs.first.numpy()].tolist(),
                part.rows[part.pairs.second.numpy()].tolist(),
                part.pairs.weight.tolist(),
                strict=True,
            )
        )
    wanted = zip(drawn.first.tolist(), drawn.second.tolist(), drawn.weight.tolist(), strict=True)
    assert found == set(wanted)


def test_a_batch_without_pairs_is_cut_likewise() -> None:
    cut = list(parts(np.array([5, 3, 9]), None, 2))
    assert [part.rows.tolist() for part in cut] == [[5, 3], [9]]
    assert [part.pairs for part in cut] == [None, None]
    assert [part.share for part in cut] == pytest.approx([2 / 3, 1 / 3])
