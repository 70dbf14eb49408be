"""A step's loss: one shared forward pass, the same mathematics."""

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot
from transformers import PreTrainedModel

from mixkd.batching import Batch
from mixkd.contract.spec import DistilSpec
from mixkd.mixup import draw_pairs
from mixkd.objectives import finetune, mixkd
from mixkd.randomness import generator
from mixkd.student import build_student


@pytest.fixture
def batch() -> Batch:
    tokens = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0], [2, 12, 13, 3, 0]])
    return Batch(tokens, (tokens != 0).long(), torch.zeros_like(tokens), torch.tensor([1, 3, 0]))


def test_equation_8_on_a_batch_equals_the_paper_row_by_row(classifier: PreTrainedModel, batch: Batch) -> None:
    """Independent of our mixing, forward and loss functions: every row alone, in float64."""
    teacher = classifier.double()
    student = build_student(teacher, 2)
    recipe = DistilSpec.model_validate({"seed": 5, "loss": {"sm_weight": 0.5, "tmkd_weight": 2}})
    teacher.train()  # its dropout must be switched off for us
    terms = {name: value.item() for name, value in mixkd(student, teacher, recipe)(batch, 3).items()}

    pairs = draw_pairs(3, recipe.mixup, generator(5, "distil", "pairs", 3))
    lengths = batch.mask.sum(-1).tolist()

    def forward(model: PreTrainedModel, words: torch.Tensor) -> torch.Tensor:
        return model(inputs_embeds=words.unsqueeze(0)).logits[0]

    def mixed(model: PreTrainedModel, m: int) -> torch.Tensor:
        i, j, weight = int(pairs.first[m]), int(pairs.second[m]), float(pairs.weight[m])
        table = model.get_input_embeddings().weight
        words = torch.zeros(max(lengths[i], lengths[j]), 16, dtype=torch.float64)
        words[: lengths[i]] += weight * table[batch.tokens[i, : lengths[i]]]
        words[: lengths[j]] += (1 - weight) * table[batch.tokens[j, : lengths[j]]]
        return forward(model, words)

    mle = sm = tmkd = 0.0
    student.requires_grad_(False)
    for n in range(3):
        own = student(input_ids=batch.tokens[n : n + 1, : lengths[n]]).logits[0]
        mle += float(-own.log_softmax(-1)[batch.labels[n]]) / 3
        found = mixed(student, n)
        i, j, weight = int(pairs.first[n]), int(pairs.second[n]), float(pairs.weight[n])
        target = weight * one_hot(batch.labels[i], 4) + (1 - weight) * one_hot(batch.labels[j], 4)
        sm += float(-(target * found.log_softmax(-1)).sum()) / 3
        tmkd += float(((found - mixed(teacher, n)) ** 2).mean().detach()) / 3

    assert terms["mle"] == pytest.approx(mle, rel=1e-6)
    assert terms["sm"] == pytest.approx(sm, rel=1e-6)
    assert terms["tmkd"] == pytest.approx(tmkd, rel=1e-5)
    assert terms["loss"] == pytest.approx(mle + 0.5 * sm + 2 * tmkd, rel=1e-6)


def test_the_teacher_gets_no_gradient_and_the_student_does(classifier: PreTrainedModel, batch: Batch) -> None:
    student = build_student(classifier, 2)
    mixkd(student, classifier, DistilSpec())(batch, 0)["loss"].backward()
    assert all(weight.grad is None for weight in classifier.parameters())
    assert all(weight.grad is not None for weight in student.parameters())


def test_tmkd_is_zero_for_a_student_that_is_its_teacher(classifier: PreTrainedModel, batch: Batch) -> None:
    twin = copy.deepcopy(classifier)
    assert mixkd(twin, classifier, DistilSpec())(batch, 0)["tmkd"].item() == pytest.approx(0, abs=1e-10)


def test_a_term_of_weight_zero_is_not_computed(classifier: PreTrainedModel, batch: Batch) -> None:
    student = build_student(classifier, 2)
    broken = copy.deepcopy(classifier)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    no_teacher = DistilSpec.model_validate({"loss": {"tmkd_weight": 0}})
    assert bool(mixkd(student, broken, no_teacher)(batch, 0)["loss"].isfinite())

    neither = DistilSpec.model_validate({"loss": {"tmkd_weight": 0, "sm_weight": 0}})
    plain = finetune(student)(batch, 0)["loss"]
    torch.testing.assert_close(mixkd(student, broken, neither)(batch, 0)["loss"], plain)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_more_mixed_rows_leave_the_scale_of_the_loss(
    classifier: PreTrainedModel, batch: Batch, ratio: int
) -> None:
    recipe = DistilSpec.model_validate({"mixup": {"ratio": ratio}})
    sm = [float(mixkd(classifier, classifier, recipe)(batch, step)["sm"].detach()) for step in range(30)]
    assert np.mean(sm) == pytest.approx(np.log(4), rel=0.2)  # a random head over four classes
