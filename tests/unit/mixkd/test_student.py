"""The student is the head of its teacher's stack, in every family we know."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from mixkd.classifier import embed, logits
from mixkd.contract.families import FAMILIES, family
from mixkd.export import weights_bytes
from mixkd.student import build_student

_SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "num_labels": 3,
}
_OWN_NAMES = {
    "distilbert": {"hidden_dim": 32},
    "electra": {"embedding_size": 8},
}


def make(model_type: str) -> PreTrainedModel:
    torch.manual_seed(3)
    config = AutoConfig.for_model(model_type, **_SIZES, **_OWN_NAMES.get(model_type, {}))
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pad = model.config.pad_token_id
    tokens = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, pad, pad]])
    return tokens, (tokens != pad).long(), torch.zeros_like(tokens)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_student_has_the_teachers_weights_and_ends_after_k_layers(model_type: str) -> None:
    teacher = make(model_type)
    before = copy.deepcopy(teacher.state_dict())
    student = build_student(teacher, 2)
    ours, theirs = student.state_dict(), teacher.state_dict()
    left_out = {name for name in theirs if name not in ours}
    stack = f"{family(model_type).base_prefix}.{family(model_type).encoder_layers}"
    assert left_out == {name for name in theirs if name.startswith((f"{stack}.2.", f"{stack}.3."))}
    assert left_out
    for name, value in ours.items():
        assert torch.equal(value, theirs[name])
        assert value.data_ptr() != theirs[name].data_ptr()  # training it must not train its teacher
    assert teacher.config.num_hidden_layers == 4
    assert all(torch.equal(value, before[name]) for name, value in theirs.items())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_saved_student_is_the_same_model(model_type: str, tmp_path: Path) -> None:
    student = build_student(make(model_type), 2)
    student.save_pretrained(tmp_path)
    assert weights_bytes(student) == (tmp_path / "model.safetensors").stat().st_size
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokens, mask, _ = batch(student)
    with torch.inference_mode():
        assert torch.equal(
            student(input_ids=tokens, attention_mask=mask).logits,
            again(input_ids=tokens, attention_mask=mask).logits,
        )


@pytest.mark.parametrize("model_type", FAMILIES)
def test_going_by_word_embeddings_is_going_by_tokens(model_type: str) -> None:
    model = make(model_type)
    tokens, mask, segments = batch(model)
    with torch.inference_mode():
        by_tokens = model(input_ids=tokens, attention_mask=mask).logits
        by_words = logits(model, embed(model, tokens), mask, segments)
    torch.testing.assert_close(by_words, by_tokens)
