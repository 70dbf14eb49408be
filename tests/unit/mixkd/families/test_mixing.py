"""What mixing does to a row inside every family, in float64 and against the library's own forward pass.

A row of the data set has its tokens and nothing more; in a batch it is padded. The rows here:
0 is the longest, 1 and 2 are shorter, and all but 0 have padding.
"""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixkd.classifier import MixAt, embed, logits, mix_at
from mixkd.contract.families import family
from mixkd.mixup import Drawn, Pairs, mix_mask, mix_segments, mix_words
from tests.support.encoders import tiny_classifier

TOKENS = torch.tensor(
    [
        [2, 10, 11, 12, 3, 13, 14, 15, 16, 17, 18, 3],
        [2, 20, 21, 22, 23, 24, 3, 1, 1, 1, 1, 1],
        [2, 30, 31, 32, 3, 33, 3, 1, 1, 1, 1, 1],
    ]
)
LENGTHS = [12, 7, 7]
MASK = (TOKENS != 1).long()
SEGMENTS = torch.tensor([[0] * 5 + [1] * 7, [0] * 12, [0] * 5 + [1] * 2 + [0] * 5])
AT: Sequence[MixAt] = ("word", "embedding")


@pytest.fixture
def model(classifier: PreTrainedModel) -> PreTrainedModel:
    return classifier.double()


@pytest.fixture(autouse=True)
def no_gradient() -> object:
    with torch.inference_mode():
        yield


def pairs_of(*drawn: tuple[int, int, float]) -> Pairs:
    first, second, weight = zip(*drawn, strict=True)
    found = Drawn(np.array(first), np.array(second), np.array(weight, dtype=np.float32), copies=1)
    return found.within(np.arange(len(TOKENS)))


def mixed_logits(model: PreTrainedModel, pairs: Pairs, at: MixAt) -> Tensor:
    words = embed(model, TOKENS, SEGMENTS, at)
    mask, segments = mix_mask(MASK, pairs), mix_segments(SEGMENTS, pairs)
    return logits(model, mix_words(words, MASK, pairs), mask, segments, at)


def has_segments(model: PreTrainedModel) -> bool:
    return family(model.config.model_type).segment_ids and model.config.type_vocab_size > 1


def plain(model: PreTrainedModel, tokens: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
    """The library's own forward pass."""
    extra = {"token_type_ids": segments} if has_segments(model) else {}
    found: Tensor = model(input_ids=tokens, attention_mask=mask, **extra).logits
    return found


@pytest.mark.parametrize("at", AT)
def test_going_by_embeddings_is_going_by_tokens(model: PreTrainedModel, at: MixAt) -> None:
    ours = logits(model, embed(model, TOKENS, SEGMENTS, at), MASK, SEGMENTS, at)
    assert torch.equal(ours, plain(model, TOKENS, MASK, SEGMENTS))


@pytest.mark.parametrize("at", AT)
def test_padding_changes_no_answer(model: PreTrainedModel, at: MixAt) -> None:
    """Positions are those of the sequence, also where RoBERTa and MPNet begin to count behind the padding."""
    padded = logits(model, embed(model, TOKENS, SEGMENTS, at), MASK, SEGMENTS, at)
    for row, length in enumerate(LENGTHS):
        cut = (slice(row, row + 1), slice(length))
        alone = plain(model, TOKENS[cut], MASK[cut], SEGMENTS[cut])
        torch.testing.assert_close(padded[row : row + 1], alone, rtol=0, atol=1e-12)


def test_positions_count_every_token_wherever_rows_are_mixed(model: PreTrainedModel) -> None:
    """By its tokens RoBERTa does not count a padding token that a text itself has."""
    tokens, mask, segments = TOKENS[:1].clone(), MASK[:1], SEGMENTS[:1]
    tokens[0, 3] = 1
    by_word, by_norm = (logits(model, embed(model, tokens, segments, at), mask, segments, at) for at in AT)
    assert torch.equal(by_word, by_norm)


@pytest.mark.parametrize("at", AT)
def test_at_weight_one_a_row_is_itself_if_its_partner_is_no_longer(model: PreTrainedModel, at: MixAt) -> None:
    whole = plain(model, TOKENS, MASK, SEGMENTS)
    ones = mixed_logits(model, pairs_of((0, 1, 1.0), (1, 2, 1.0), (2, 2, 1.0)), at)
    assert torch.equal(ones, whole)
    zeros = mixed_logits(model, pairs_of((1, 0, 0.0), (2, 1, 0.0), (2, 2, 0.0)), at)
    assert torch.equal(zeros, whole)


class Given(nn.Module):
    """Stands in for the embedding LayerNorm and makes what it was given."""

    def __init__(self, made: Tensor) -> None:
        super().__init__()
        self.made = made

    def forward(self, _: Tensor) -> Tensor:
        return self.made


def with_zeros(model: PreTrainedModel, row: int, length: int, at: MixAt) -> Tensor:
    """A row that goes on with zeros up to `length`, alone and without padding."""
    own = LENGTHS[row]
    tokens = TOKENS[row : row + 1, :own]
    segments = SEGMENTS[row : row + 1, :length]
    extra = {"token_type_ids": segments} if has_segments(model) else {}
    table = model.get_input_embeddings().weight
    words = torch.zeros(1, length, table.shape[1], dtype=torch.float64)
    words[:, :own] = table[tokens]
    model = copy.deepcopy(model)
    if at == "embedding":
        path = family(model.config.model_type).embedding_norm
        norm = model.base_model.get_submodule(path)
        seen: list[Tensor] = []
        norm.register_forward_hook(lambda _norm, _given, output: seen.append(output))
        model(inputs_embeds=words, **extra)
        after = torch.zeros_like(seen[0])
        after[:, :own] = seen[0][:, :own]
        model.base_model.set_submodule(path, Given(after))
    found: Tensor = model(inputs_embeds=words, attention_mask=torch.ones(1, length).long(), **extra).logits
    return found[0]


@pytest.mark.parametrize("at", AT)
def test_with_a_longer_partner_the_row_goes_on_with_zeros_under_the_union_of_masks(
    model: PreTrainedModel, at: MixAt
) -> None:
    (mixed,) = mixed_logits(model, pairs_of((1, 0, 1.0)), at)
    torch.testing.assert_close(mixed, with_zeros(model, 1, LENGTHS[0], at), rtol=0, atol=1e-12)
    mirrored = mixed_logits(model, pairs_of((0, 1, 0.0)), at)[0]
    assert torch.equal(mirrored, mixed)
    unmixed = plain(model, TOKENS, MASK, SEGMENTS)[1]
    assert not torch.allclose(mixed, unmixed, atol=1e-4), "the zeros must be read, or nothing was shown"


@pytest.mark.parametrize("at", AT)
def test_swapping_the_rows_of_a_pair_with_their_weights_changes_nothing(
    model: PreTrainedModel, at: MixAt
) -> None:
    drawn = [(0, 1, 0.25), (1, 2, 0.75), (2, 1, 0.5), (0, 2, 0.0), (2, 0, 0.125)]  # 1 − λ is exact for these
    there = mixed_logits(model, pairs_of(*drawn), at)
    back = mixed_logits(model, pairs_of(*((j, i, 1 - weight) for i, j, weight in drawn)), at)
    assert torch.equal(there, back)


def test_segment_ids_are_those_of_the_heavier_row(model: PreTrainedModel) -> None:
    pairs = pairs_of((0, 1, 0.25), (0, 1, 0.75))
    words, mask = mix_words(embed(model, TOKENS, SEGMENTS, "word"), MASK, pairs), mix_mask(MASK, pairs)
    chosen = logits(model, words, mask, SEGMENTS[[1, 0]], "word")
    assert torch.equal(mixed_logits(model, pairs, "word"), chosen)
    other = logits(model, words, mask, SEGMENTS[[0, 1]], "word")
    assert torch.equal(chosen, other) != has_segments(model), "where segments are read, they must matter"


# -- the families whose LayerNorm would undo λ -----------------------------------------------------------


def test_mixing_is_after_the_layer_norm_only_where_nothing_is_added_before_it(
    kind: str, model: PreTrainedModel
) -> None:
    assert mix_at(model, "auto") == ("embedding" if kind in {"deberta-v3", "modernbert"} else "word")
    assert [mix_at(model, at) for at in AT] == list(AT)


def test_a_deberta_that_tells_texts_apart_by_segments_is_mixed_before_them() -> None:
    assert mix_at(tiny_classifier("deberta-v3", type_vocab_size=2), "auto") == "word"


def tail_strength(model: PreTrainedModel, weight: float, at: MixAt) -> float:
    """How strong the encoder sees what only the longer row has, next to that row unmixed."""
    seen: list[Tensor] = []
    block = model.base_model.get_submodule("embeddings")
    with block.register_forward_hook(lambda _block, _given, output: seen.append(output)):
        mixed_logits(model, pairs_of((1, 0, weight), (1, 0, 0.0)), at)
    mixed, unmixed = seen[-1][:, LENGTHS[1] :].norm(dim=(1, 2))
    return float(mixed / unmixed)


@pytest.mark.parametrize("undoing", ["deberta-v3", "modernbert"])
def test_the_tail_fades_as_the_weight_of_the_shorter_row_grows(undoing: str) -> None:
    model = tiny_classifier(undoing).double()
    for weight in (0.25, 0.5, 0.75, 0.9375):
        assert tail_strength(model, weight, "embedding") == pytest.approx(1 - weight)
        assert tail_strength(model, weight, "word") > 0.9, "the LayerNorm undoes the weight"


@pytest.mark.parametrize("undoing", ["deberta-v3", "modernbert"])
def test_an_answer_nears_that_of_the_shorter_row_as_its_weight_nears_one(undoing: str) -> None:
    """Without it the answer would leap at λ = 1, where the tail's words at last are zero."""
    model = tiny_classifier(undoing).double()
    weights = (0.9, 0.99, 0.999)
    leap = {}
    for at in AT:
        found = mixed_logits(model, pairs_of(*((1, 0, weight) for weight in (*weights, 1.0))), at)
        leap[at] = (found[:-1] - found[-1]).norm(dim=1).tolist()
    assert leap["embedding"][2] < 0.2 * leap["embedding"][1] < 0.04 * leap["embedding"][0]
    assert leap["word"][1] > 0.5 * leap["word"][0]


# -- as it is used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", AT)
def test_half_precision_gives_nearly_the_same_answers(classifier: PreTrainedModel, at: MixAt) -> None:
    pairs = pairs_of((1, 0, 0.25), (0, 2, 0.5))
    exact = mixed_logits(classifier, pairs, at)
    with torch.autocast("cpu", torch.bfloat16):
        half = mixed_logits(classifier, pairs, at)
    torch.testing.assert_close(half.float(), exact.float(), rtol=0.1, atol=0.1)
