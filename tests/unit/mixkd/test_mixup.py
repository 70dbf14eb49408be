"""Equations 4 and 5 against the paper's words, written out row by row in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixkd.contract.spec import MixupSpec
from mixkd.mixup import Drawn, Pairs, draw_pairs, mix_labels, mix_mask, mix_segments, mix_words


def pairs_of(first: list[int], second: list[int], weight: list[float]) -> Pairs:
    """Pairs of rows whose position is their number; λ in float64, for exact comparisons."""
    drawn = Drawn(np.array(first), np.array(second), np.array(weight, dtype=np.float64), 1)  # type: ignore[arg-type]
    return drawn.within(np.arange(max(first + second) + 1))


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[Tensor], Tensor, Tensor, Pairs]:
    """Rows of words without padding, the padded words, the mask, and pairs over them."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=5))
    chance = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = [torch.randn(length, 3, dtype=torch.float64, generator=chance) for length in lengths]
    longest = max(lengths)
    words = torch.randn(len(rows), longest, 3, dtype=torch.float64, generator=chance)  # padding is not zero
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for n, row in enumerate(rows):
        words[n, : len(row)] = row
        mask[n, : len(row)] = 1
    index = st.integers(0, len(rows) - 1)
    drawn = draw(st.lists(st.tuples(index, index, st.floats(0, 1)), min_size=1, max_size=6))
    first, second, weight = (list(values) for values in zip(*drawn, strict=True))
    return rows, words, mask, pairs_of(first, second, weight)


@given(batches())
def test_words_are_mixed_per_position_and_the_shorter_row_goes_on_with_zeros(
    batch: tuple[list[Tensor], Tensor, Tensor, Pairs],
) -> None:
    rows, words, mask, pairs = batch
    mixed = mix_words(words, mask, pairs)
    union = mix_mask(mask, pairs)
    for m in range(len(pairs.weight)):
        a, b = rows[pairs.first[m]].numpy(), rows[pairs.second[m]].numpy()
        weight = float(pairs.weight[m])
        for t in range(words.shape[1]):
            expected = np.zeros(3)
            if t < len(a):
                expected = expected + weight * a[t]
            if t < len(b):
                expected = expected + (1 - weight) * b[t]
            np.testing.assert_allclose(mixed[m, t], expected, rtol=1e-12, atol=1e-15)
            assert union[m, t] == (t < max(len(a), len(b)))


@given(batches())
def test_swapping_the_rows_of_a_pair_with_their_weights_changes_nothing(
    batch: tuple[list[Tensor], Tensor, Tensor, Pairs],
) -> None:
    _, words, mask, pairs = batch
    swapped = pairs_of(pairs.second.tolist(), pairs.first.tolist(), (1 - pairs.weight).tolist())
    torch.testing.assert_close(mix_words(words, mask, swapped), mix_words(words, mask, pairs))
    assert torch.equal(mix_mask(mask, swapped), mix_mask(mask, pairs))
    exact = (1 - (1 - pairs.weight)) == pairs.weight  # where 1 - λ has no rounding that could cross a half
    segments = torch.arange(mask.numel()).view_as(mask)
    assert torch.equal(mix_segments(segments, swapped)[exact], mix_segments(segments, pairs)[exact])


def test_labels_are_mixed_like_their_words() -> None:
    labels = torch.eye(3, dtype=torch.float64)
    pairs = pairs_of([0, 2], [1, 2], [0.3, 0.9])
    expected = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(mix_labels(labels, pairs), expected)


def test_a_score_is_mixed_like_a_label() -> None:
    pairs = pairs_of([0], [1], [0.25])
    assert float(mix_labels(torch.tensor([[8.0], [-4.0]]), pairs)) == -1.0


def test_segments_are_those_of_the_heavier_row_and_at_a_tie_of_the_lower_one() -> None:
    segments = torch.tensor([[0, 0], [1, 1]])
    pairs = pairs_of([0, 0, 0, 1], [1, 1, 1, 0], [0.51, 0.49, 0.5, 0.5])
    assert mix_segments(segments, pairs)[:, 0].tolist() == [0, 1, 0, 0]


def test_the_lower_row_is_that_of_the_data_set_wherever_it_lies_in_a_batch() -> None:
    """Otherwise the segment ids of a tie would depend on how a batch is cut into parts."""
    drawn = Drawn(np.array([7]), np.array([3]), np.array([0.5], dtype=np.float32), 1)
    for rows in ([7, 3], [3, 7], [9, 7, 1, 3]):
        pairs = drawn.within(np.array(rows))
        assert [rows[at] for at in (pairs.first[0], pairs.second[0], pairs.heavier[0])] == [7, 3, 3]


BATCH = np.array([40, 3, 17, 25, 8, 31])


@pytest.mark.parametrize("lambda_per", ["example", "batch"])
@given(rows=st.integers(2, 40), ratio=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_every_row_leads_and_follows_once_for_each_mixed_copy(
    lambda_per: str, rows: int, ratio: int, seed: int
) -> None:
    spec = MixupSpec.model_validate({"lambda_per": lambda_per, "ratio": ratio})
    batch = np.arange(100, 100 + 3 * rows, 3)
    drawn = draw_pairs(batch, 1000, spec, np.random.default_rng(seed))
    assert drawn.first.tolist() == batch.tolist() * ratio
    weights = drawn.weight.reshape(ratio, rows)
    for copy, partners in enumerate(drawn.second.reshape(ratio, rows)):
        assert sorted(partners.tolist()) == batch.tolist()
        distinct = len(np.unique(weights[copy]))
        assert distinct == 1 if lambda_per == "batch" else distinct > 1
    assert bool(((drawn.weight >= 0) & (drawn.weight <= 1)).all())


def test_one_weight_a_batch_is_a_new_one_for_each_copy() -> None:
    spec = MixupSpec(lambda_per="batch", ratio=3)
    drawn = draw_pairs(BATCH, 50, spec, np.random.default_rng(0))
    assert len(np.unique(drawn.weight)) == 3


def test_partners_may_come_from_the_whole_set_each_row_as_likely_as_any() -> None:
    spec = MixupSpec(partner="set", ratio=2)
    rng = np.random.default_rng(0)
    drawn = [draw_pairs(BATCH, 50, spec, rng) for _ in range(1000)]
    assert all(one.first.tolist() == BATCH.tolist() * 2 for one in drawn)
    counts = np.bincount(np.concatenate([one.second for one in drawn]), minlength=50)
    assert len(counts) == 50
    assert counts.min() > 170  # 12,000 draws over 50 rows: 240 each, with a standard deviation of 15
    assert counts.max() < 310


def test_weights_follow_the_beta_distribution() -> None:
    drawn = draw_pairs(np.arange(20_000), 20_000, MixupSpec(alpha=0.4), np.random.default_rng(0))
    # Beta(α, α) has the mean 1/2 and the variance 1 / (4 (2α + 1)).
    assert float(drawn.weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.weight.var()) == pytest.approx(1 / (4 * 1.8), rel=0.02)
    assert drawn.weight.dtype == np.float32


def test_alpha_decides_how_evenly_rows_are_mixed() -> None:
    rng = np.random.default_rng(0)
    spread = [draw_pairs(np.arange(5000), 5000, MixupSpec(alpha=a), rng).weight.var() for a in (0.1, 1, 10)]
    assert spread == sorted(spread, reverse=True)


def test_the_pairs_that_some_rows_lead_are_cut_from_every_copy() -> None:
    drawn = draw_pairs(BATCH, 50, MixupSpec(ratio=2), np.random.default_rng(0))
    led = drawn.led_by(2, 4)
    assert led.first.tolist() == [17, 25, 17, 25]
    assert led.second.tolist() == drawn.second[[2, 3, 8, 9]].tolist()
    assert led.weight.tolist() == drawn.weight[[2, 3, 8, 9]].tolist()
    assert led.copies == 2


def test_pairs_keep_the_precision_of_what_they_mix() -> None:
    words = torch.ones(2, 1, 1, dtype=torch.bfloat16)
    pairs = pairs_of([0], [1], [0.5])
    assert mix_words(words, torch.ones(2, 1, dtype=torch.int64), pairs).dtype == words.dtype
    assert mix_labels(words[..., 0], pairs).dtype == words.dtype


def test_pairs_follow_the_rows_to_their_device() -> None:
    """The meta device stands for a GPU: it is the one other device that every machine has."""
    moved = pairs_of([0], [1], [0.5]).to(torch.device("meta"))
    devices = {value.device.type for value in (moved.first, moved.second, moved.heavier, moved.weight)}
    assert devices == {"meta"}
