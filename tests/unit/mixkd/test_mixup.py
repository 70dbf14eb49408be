"""Equations 4 and 5 against the paper's words, written out row by row in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.classifier import embed, logits
from mixkd.contract.spec import MixupSpec
from mixkd.mixup import Pairs, draw_pairs, mix_labels, mix_mask, mix_segments, mix_words


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
    first, second, weight = zip(*drawn, strict=True)
    pairs = Pairs(torch.tensor(first), torch.tensor(second), torch.tensor(weight, dtype=torch.float64))
    return rows, words, mask, pairs


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
    swapped = Pairs(pairs.second, pairs.first, 1 - pairs.weight)
    torch.testing.assert_close(mix_words(words, mask, swapped), mix_words(words, mask, pairs))
    assert torch.equal(mix_mask(mask, swapped), mix_mask(mask, pairs))
    exact = (1 - (1 - pairs.weight)) == pairs.weight  # where 1 - λ has no rounding that could cross a half
    segments = torch.arange(mask.numel()).view_as(mask)
    assert torch.equal(mix_segments(segments, swapped)[exact], mix_segments(segments, pairs)[exact])


def test_labels_are_mixed_like_their_words() -> None:
    labels = torch.eye(3, dtype=torch.float64)
    pairs = Pairs(torch.tensor([0, 2]), torch.tensor([1, 2]), torch.tensor([0.3, 0.9], dtype=torch.float64))
    expected = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(mix_labels(labels, pairs), expected)


def test_segments_are_those_of_the_heavier_row_and_at_a_tie_of_the_lower_one() -> None:
    segments = torch.tensor([[0, 0], [1, 1]])
    pairs = Pairs(
        torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 1, 0]), torch.tensor([0.51, 0.49, 0.5, 0.5])
    )
    assert mix_segments(segments, pairs)[:, 0].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("lambda_per", ["example", "batch"])
@given(rows=st.integers(2, 40), ratio=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_every_row_leads_and_follows_once_for_each_mixed_copy(
    lambda_per: str, rows: int, ratio: int, seed: int
) -> None:
    spec = MixupSpec.model_validate({"lambda_per": lambda_per, "ratio": ratio})
    pairs = draw_pairs(rows, spec, np.random.default_rng(seed))
    assert pairs.first.tolist() == list(range(rows)) * ratio
    weights = pairs.weight.view(ratio, rows)
    for copy, partners in enumerate(pairs.second.view(ratio, rows)):
        assert sorted(partners.tolist()) == list(range(rows))
        distinct = len(weights[copy].unique())
        assert distinct == 1 if lambda_per == "batch" else distinct > 1
    assert bool(((pairs.weight >= 0) & (pairs.weight <= 1)).all())


def test_weights_follow_the_beta_distribution() -> None:
    pairs = draw_pairs(20_000, MixupSpec(alpha=0.4), np.random.default_rng(0))
    # Beta(α, α) has the mean 1/2 and the variance 1 / (4 (2α + 1)).
    assert float(pairs.weight.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(pairs.weight.var()) == pytest.approx(1 / (4 * 1.8), rel=0.02)


def test_at_weight_one_a_mixed_row_is_the_row_itself(classifier: PreTrainedModel) -> None:
    tokens = torch.tensor([[2, 7, 8, 9, 10, 3], [2, 11, 12, 3, 0, 0]])
    mask = (tokens != 0).long()
    segments = torch.zeros_like(tokens)
    pairs = Pairs(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([1.0, 1.0]))
    words = embed(classifier, tokens)
    with torch.inference_mode():
        mixed = logits(classifier, mix_words(words, mask, pairs), mix_mask(mask, pairs), segments)
        plain = classifier(input_ids=tokens, attention_mask=mask, token_type_ids=segments).logits
    torch.testing.assert_close(mixed, plain)


def test_what_the_model_adds_to_words_is_added_after_mixing(classifier: PreTrainedModel) -> None:
    """Half of a row and half of itself is the row: were positions or LayerNorm mixed too, it would still be;
    so mix two different rows and compare with the model's own embedding block by hand."""
    tokens = torch.tensor([[2, 7, 8, 3], [2, 11, 12, 3]])
    mask = torch.ones_like(tokens)
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.25]))
    block = classifier.bert.embeddings
    table = block.word_embeddings.weight
    by_hand = block.LayerNorm(
        0.25 * table[tokens[0]]
        + 0.75 * table[tokens[1]]
        + block.position_embeddings.weight[:4]
        + block.token_type_embeddings.weight[0]
    )
    ours = block(inputs_embeds=mix_words(embed(classifier, tokens), mask, pairs))
    torch.testing.assert_close(ours[0], by_hand)
