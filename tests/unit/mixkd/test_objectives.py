"""A step's loss: one shared forward pass, the same mathematics; cut into parts, the same gradient."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import PreTrainedModel

from mixkd.batching import Part, parts
from mixkd.classifier import ready_to_answer
from mixkd.contract.spec import PRESETS, LossSpec, MixupSpec
from mixkd.data import Encoded
from mixkd.mixup import Drawn, draw_pairs
from mixkd.objectives import Network, imitate

BATCH = np.array([4, 1, 2])
ROWS = [[2, 9, 3], [2, 11, 3], [2, 12, 13, 3], [2, 6, 6, 6, 14, 3], [2, 7, 8, 9, 3]]
CLASSES = [1, 3, 0, 2, 1]


def encoded(rows: list[list[int]] = ROWS, *, outputs: int = 4) -> Encoded:
    flat = np.concatenate([np.array(row, dtype=np.int32) for row in rows])
    return Encoded(
        tokens=flat,
        segments=np.zeros(len(flat), dtype=np.uint8),
        starts=np.cumsum([0, *map(len, rows)]),
        targets=np.array(CLASSES),
        outputs=outputs,
        pad_id=0,
    )


def student_of(teacher: PreTrainedModel, layers: int = 2) -> PreTrainedModel:
    student = copy.deepcopy(teacher)
    student.bert.encoder.layer = student.bert.encoder.layer[:layers]
    return student


def whole(drawn: Drawn | None, batch: np.ndarray = BATCH) -> Part:
    (part,) = parts(batch, drawn, None)
    return part


def drawn_pairs(seed: int = 3, **mixup: object) -> Drawn:
    return draw_pairs(BATCH, len(ROWS), MixupSpec.model_validate(mixup), np.random.default_rng(seed))


@pytest.mark.parametrize("partner", ["batch", "set"])
def test_equation_8_on_a_batch_equals_the_paper_row_by_row(classifier: PreTrainedModel, partner: str) -> None:
    """Independent of our mixing, forward and loss functions: every row alone, in float64."""
    teacher = classifier.double()
    student = student_of(teacher)
    ready_to_answer(student)
    loss = LossSpec(mle_weight=0.7, kd_weight=0.3, sm_weight=0.5, tmkd_weight=2)
    drawn = drawn_pairs(partner=partner)
    teacher.train()  # its dropout must be switched off for us
    rows = encoded()
    objective = imitate(Network(student, rows), Network(teacher, rows), loss, "single_label")
    terms = {name: value.item() for name, value in objective(whole(drawn)).items()}

    def forward(model: PreTrainedModel, words: Tensor) -> Tensor:
        return model(inputs_embeds=words.unsqueeze(0)).logits[0]

    def mixed(model: PreTrainedModel, m: int) -> Tensor:
        a, b = ROWS[drawn.first[m]], ROWS[drawn.second[m]]
        weight = float(drawn.weight[m])
        table = model.get_input_embeddings().weight
        words = torch.zeros(max(len(a), len(b)), 16, dtype=torch.float64)
        words[: len(a)] += weight * table[a]
        words[: len(b)] += (1 - weight) * table[b]
        return forward(model, words)

    mle = kd = sm = tmkd = 0.0
    student.requires_grad_(False)
    teacher.requires_grad_(False)
    for m, row in enumerate(BATCH):
        tokens = torch.tensor([ROWS[row]])
        own, teachers = student(input_ids=tokens).logits[0], teacher(input_ids=tokens).logits[0]
        mle += float(-own.log_softmax(-1)[CLASSES[row]]) / 3
        kd += float(((own - teachers) ** 2).mean()) / 3
        found, weight = mixed(student, m), float(drawn.weight[m])
        i, j = (torch.tensor(CLASSES[side[m]]) for side in (drawn.first, drawn.second))
        target = weight * one_hot(i, 4) + (1 - weight) * one_hot(j, 4)
        sm += float(-(target * found.log_softmax(-1)).sum()) / 3
        tmkd += float(((found - mixed(teacher, m)) ** 2).mean()) / 3

    assert terms["mle"] == pytest.approx(mle, rel=1e-6)
    assert terms["kd"] == pytest.approx(kd, rel=1e-5)
    assert terms["sm"] == pytest.approx(sm, rel=1e-6)
    assert terms["tmkd"] == pytest.approx(tmkd, rel=1e-5)
    assert terms["loss"] == pytest.approx(0.7 * mle + 0.3 * kd + 0.5 * sm + 2 * tmkd, rel=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize("mixup", [{}, {"partner": "set"}, {"ratio": 3}, {"ratio": 2, "lambda_per": "batch"}])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(
    classifier: PreTrainedModel, mixup: dict[str, object], micro_batch: int
) -> None:
    """What an accumulated step, and one that ran out of memory, relies on."""
    teacher = classifier.double()
    drawn = drawn_pairs(**mixup)
    rows = encoded()

    def gradients(size: int | None) -> dict[str, Tensor]:
        student = ready(student_of(teacher))
        objective = imitate(Network(student, rows), Network(teacher, rows), LossSpec(), "single_label")
        for part in parts(BATCH, drawn, size):
            (objective(part)["loss"] * part.share).backward()
        return {name: weight.grad for name, weight in student.named_parameters()}

    whole_batch, in_parts = gradients(None), gradients(micro_batch)
    for name, gradient in whole_batch.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-5, atol=1e-8)


def ready(model: PreTrainedModel) -> PreTrainedModel:
    ready_to_answer(model)
    return model


def test_the_teacher_gets_no_gradient_and_the_student_does(classifier: PreTrainedModel) -> None:
    student, rows = student_of(classifier), encoded()
    objective = imitate(Network(student, rows), Network(classifier, rows), LossSpec(), "single_label")
    objective(whole(drawn_pairs()))["loss"].backward()
    assert all(weight.grad is None for weight in classifier.parameters())
    assert all(weight.grad is not None for weight in student.parameters())


def test_distances_are_zero_for_a_student_that_is_its_teacher(classifier: PreTrainedModel) -> None:
    twin, rows = copy.deepcopy(classifier), encoded()
    objective = imitate(Network(twin, rows), Network(classifier, rows), LossSpec(kd_weight=1), "single_label")
    terms = objective(whole(drawn_pairs()))
    assert terms["tmkd"].item() == pytest.approx(0, abs=1e-10)
    assert terms["kd"].item() == pytest.approx(0, abs=1e-10)


def test_teacher_and_student_may_have_tokenizers_of_their_own(classifier: PreTrainedModel) -> None:
    """The same pairs and λ for both: a twin whose vocabulary is in another order still has no distance."""
    rows = encoded()
    order = torch.tensor(np.random.default_rng(0).permutation(classifier.config.vocab_size))
    twin = copy.deepcopy(classifier)
    with torch.no_grad():
        twin.get_input_embeddings().weight[order] = classifier.get_input_embeddings().weight
    own = replace(rows, tokens=order.numpy()[rows.tokens].astype(np.int32))
    objective = imitate(Network(twin, own), Network(classifier, rows), LossSpec(), "single_label")
    assert objective(whole(drawn_pairs(partner="set")))["tmkd"].item() == pytest.approx(0, abs=1e-10)


def test_a_student_may_cut_a_text_into_more_tokens_than_its_teacher(classifier: PreTrainedModel) -> None:
    rows = encoded()
    longer = encoded([[2, *[token for word in row[1:-1] for token in (word, word)], 3] for row in ROWS])
    objective = imitate(
        Network(student_of(classifier), longer), Network(classifier, rows), LossSpec(), "single_label"
    )
    assert bool(objective(whole(drawn_pairs()))["loss"].isfinite())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_computes_its_own_terms_and_no_others(classifier: PreTrainedModel, preset: str) -> None:
    loss = LossSpec.model_validate(PRESETS[preset])
    rows = encoded()
    broken = copy.deepcopy(classifier)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
    student = ready(student_of(classifier))
    terms = imitate(Network(student, rows), Network(broken, rows), loss, "single_label")(whole(drawn_pairs()))
    asked = {"mle"} | {name.removesuffix("_weight") for name, weight in PRESETS[preset].items() if weight}
    assert set(terms) == {"loss", *asked}
    # The teacher answers NaN: whoever does not need it must not notice.
    assert bool(terms["loss"].isfinite()) == (not asked & {"kd", "tmkd"})


def test_nothing_but_mixed_rows_can_be_asked_for(classifier: PreTrainedModel) -> None:
    student, rows = ready(student_of(classifier)), encoded()
    drawn = drawn_pairs()
    networks = Network(student, rows), Network(classifier, rows)
    only = imitate(*networks, LossSpec(mle_weight=0), "single_label")(whole(drawn))
    beside = imitate(*networks, LossSpec(), "single_label")(whole(drawn))
    assert set(only) == {"loss", "sm", "tmkd"}
    for name in ("sm", "tmkd"):
        torch.testing.assert_close(only[name], beside[name])


def test_fine_tuning_needs_no_teacher_and_equals_the_models_own_loss(classifier: PreTrainedModel) -> None:
    loss = LossSpec.model_validate(PRESETS["finetune"])
    part = whole(None, np.array([1]))  # one row: without padding
    found = imitate(Network(ready(classifier), encoded()), None, loss, "single_label")(part)["loss"]
    own = classifier(input_ids=torch.tensor([ROWS[1]]), labels=torch.tensor([CLASSES[1]])).loss
    torch.testing.assert_close(found, own)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_more_mixed_rows_leave_the_scale_of_the_loss(classifier: PreTrainedModel, ratio: int) -> None:
    rows = encoded()
    objective = imitate(Network(classifier, rows), Network(classifier, rows), LossSpec(), "single_label")
    sm = [float(objective(whole(drawn_pairs(seed, ratio=ratio)))["sm"].detach()) for seed in range(30)]
    assert np.mean(sm) == pytest.approx(np.log(4), rel=0.2)  # a random head over four classes


def test_class_weights_and_smoothing_reach_real_and_mixed_labels(classifier: PreTrainedModel) -> None:
    student, rows = ready(student_of(classifier)), encoded()
    plain = imitate(Network(student, rows), None, LossSpec(tmkd_weight=0), "single_label")
    weights = torch.tensor([3.0, 3.0, 3.0, 3.0])
    heavy = imitate(Network(student, rows), None, LossSpec(tmkd_weight=0), "single_label", weights)
    smoothed = LossSpec(tmkd_weight=0, label_smoothing=0.3)
    smooth = imitate(Network(student, rows), None, smoothed, "single_label")
    part = whole(drawn_pairs())
    for name in ("mle", "sm"):
        torch.testing.assert_close(heavy(part)[name], 3 * plain(part)[name])
        assert not torch.isclose(smooth(part)[name], plain(part)[name], rtol=1e-4)
