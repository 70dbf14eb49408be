"""Every family from a teacher's folder to a student's: what goes in, what is trained, what comes out."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from mixkd.batching import parts
from mixkd.classifier import embed, labels_of, logits, mix_at, scale_head
from mixkd.contract.data_spec import Task
from mixkd.contract.families import FAMILIES, family
from mixkd.contract.folder import inspect_folder
from mixkd.contract.spec import LossSpec, MixupSpec, StudentSpec
from mixkd.data import Encoded
from mixkd.mixup import draw_pairs
from mixkd.objectives import Network, imitate
from mixkd.student import build_student
from mixkd.teacher import load_teacher, load_tokenizer, load_with_new_head
from tests.support.encoders import HIDDEN, KINDS, LABELS, LAYERS, WORDS, tiny_classifier

TOKENS = torch.tensor([[2, 5, 6, 7, 8, 9, 10, 3], [2, 11, 12, 13, 3, 1, 1, 1]])
MASK = (TOKENS != 1).long()


def answers(model: PreTrainedModel) -> Tensor:
    with torch.inference_mode():
        found: Tensor = model(input_ids=TOKENS, attention_mask=MASK).logits
    return found


def test_every_family_has_a_kind_here() -> None:
    assert {model_type for model_type, _ in KINDS.values()} == set(FAMILIES)


# -- folders ---------------------------------------------------------------------------------------------


def test_a_saved_classifier_is_accepted_and_described(kind: str, classifier_folder: Path) -> None:
    info = inspect_folder(classifier_folder)
    model = AutoModelForSequenceClassification.from_pretrained(classifier_folder)
    assert (info.family, info.layers, info.hidden_size) == (KINDS[kind][0], LAYERS, HIDDEN)
    assert info.parameters == sum(weight.numel() for weight in model.parameters())
    assert info.vocab_size == model.get_input_embeddings().weight.shape[0]
    assert info.labels == list(LABELS) == labels_of(load_teacher(classifier_folder))


def test_as_many_tokens_fit_as_the_description_says(classifier_folder: Path) -> None:
    model = load_teacher(classifier_folder)
    longest = torch.full((1, inspect_folder(classifier_folder).max_positions), 7)
    with torch.inference_mode():
        words = embed(model, longest, torch.zeros_like(longest), "word")
        found = logits(model, words, torch.ones_like(longest), torch.zeros_like(longest), "word")
    assert bool(found.isfinite().all())


def test_a_saved_encoder_has_no_labels(encoder_folder: Path) -> None:
    assert inspect_folder(encoder_folder).labels is None


def test_its_tokenizer_tells_words_texts_and_padding_apart(kind: str, classifier_folder: Path) -> None:
    tokenizer = load_tokenizer(classifier_folder)
    assert tokenizer.pad_token_id == 1
    coded = tokenizer([WORDS[3], WORDS[4]], [WORDS[5], WORDS[5]], return_token_type_ids=True)
    first, second = coded["input_ids"]
    assert first != second
    assert max(map(max, coded["input_ids"])) < inspect_folder(classifier_folder).vocab_size
    assert (1 in coded["token_type_ids"][0]) == (kind not in {"roberta", "xlm-roberta", "mpnet"})


# -- heads -----------------------------------------------------------------------------------------------


HEADS: dict[Task, tuple[list[str], str]] = {
    "single_label": (["b", "a"], "single_label_classification"),
    "multi_label": (["x", "y", "z", "w"], "multi_label_classification"),
    "regression": (["score"], "regression"),
}


@pytest.mark.parametrize("headless", [True, False])
@pytest.mark.parametrize("task", HEADS)
def test_an_encoder_gets_a_new_head_for_the_task(
    encoder_folder: Path, classifier_folder: Path, headless: bool, task: Task
) -> None:
    folder = encoder_folder if headless else classifier_folder
    labels, problem_type = HEADS[task]
    torch.manual_seed(7)
    model = load_with_new_head(folder, labels, task)
    assert labels_of(model) == labels
    assert model.config.problem_type == problem_type
    assert answers(model).shape == (2, len(labels))

    torch.manual_seed(7)
    again = load_with_new_head(folder, labels, task)
    other = load_with_new_head(folder, labels, task)
    head = family(model.config.model_type).head_weight
    weights = [m.get_parameter(head) for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]), "it must come from the seed"


def test_a_new_head_is_new_in_every_part_and_the_encoder_is_not(
    classifier: PreTrainedModel, classifier_folder: Path
) -> None:
    model = load_with_new_head(classifier_folder, LABELS, "single_label")
    encoder = f"{model.base_model_prefix}."
    old = classifier.state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, old[name]) == name.startswith(encoder), name


def test_all_is_in_single_precision_whatever_the_folder_has(
    classifier: PreTrainedModel, tmp_path: Path
) -> None:
    classifier.half().save_pretrained(tmp_path)
    for model in (load_teacher(tmp_path), load_with_new_head(tmp_path, LABELS, "single_label")):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_head_can_be_scaled_to_other_units(classifier: PreTrainedModel) -> None:
    model = classifier.double()
    before = answers(model)
    scale_head(model, shift=3.5, scale=0.25)
    torch.testing.assert_close(answers(model), 0.25 * before + 3.5, rtol=0, atol=1e-14)
    scale_head(model, shift=-3.5 / 0.25, scale=1 / 0.25)
    torch.testing.assert_close(answers(model), before, rtol=0, atol=1e-13)


# -- students --------------------------------------------------------------------------------------------


def students(kind: str) -> list[tuple[dict[str, object], list[int]]]:
    """What a recipe says, and the layers that it means."""
    first: tuple[dict[str, object], list[int]] = ({"layers": 2}, [0, 1])
    if kind == "albert":  # its layers are one
        return [first]
    return [
        first,
        ({"layers": 2, "pick": "last"}, [2, 3]),
        ({"layers": 3, "pick": "even"}, [0, 2, 3]),
        ({"layers": [1, 2]}, [1, 2]),
    ]


def student_of(teacher: PreTrainedModel, **spec: object) -> PreTrainedModel:
    return build_student(
        StudentSpec.model_validate(spec), teacher, labels=labels_of(teacher), task="single_label"
    )


def test_a_student_saved_is_what_plain_transformers_loads(
    kind: str, classifier_folder: Path, tmp_path: Path
) -> None:
    for number, (spec, layers) in enumerate(students(kind)):
        folder = tmp_path / str(number)
        student = student_of(load_teacher(classifier_folder), **spec)
        student.save_pretrained(folder)
        load_tokenizer(classifier_folder).save_pretrained(folder)
        again, found = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(found.values())
        assert torch.equal(answers(student), answers(again))
        info = inspect_folder(folder)
        assert (info.layers, info.labels) == (len(layers), list(LABELS))


def test_a_student_has_the_weights_of_the_layers_that_were_chosen(
    kind: str, classifier: PreTrainedModel
) -> None:
    before = copy.deepcopy(classifier.state_dict())
    stack = f"{classifier.base_model_prefix}.{family(classifier.config.model_type).encoder_layers}."
    for spec, layers in students(kind):
        for name, weight in student_of(classifier, **spec).state_dict().items():
            source = name
            if name.startswith(stack) and kind != "albert":
                number, _, rest = name.removeprefix(stack).partition(".")
                source = f"{stack}{layers[int(number)]}.{rest}"
            theirs = classifier.state_dict()[source]
            assert torch.equal(weight, theirs), name
            assert weight.data_ptr() != theirs.data_ptr(), "training it must not train its teacher"
    assert all(torch.equal(weight, before[name]) for name, weight in classifier.state_dict().items())
    assert classifier.config.num_hidden_layers == LAYERS


def test_a_student_of_all_layers_answers_as_its_teacher(classifier: PreTrainedModel) -> None:
    assert torch.equal(answers(student_of(classifier, layers=LAYERS)), answers(classifier))


def test_a_student_of_the_first_layers_is_the_teacher_cut_off(kind: str, classifier: PreTrainedModel) -> None:
    """By another road: the layers above are taken out of the teacher in place, or not applied."""
    student = student_of(classifier, layers=2)
    if kind == "albert":
        classifier.config.num_hidden_layers = 2
    else:
        del classifier.base_model.get_submodule(family(classifier.config.model_type).encoder_layers)[2:]
    assert torch.equal(answers(student), answers(classifier))


def test_modernberts_layers_keep_their_own_reach() -> None:
    """Every second layer sees only tokens nearby: it must go on so at its new number."""
    teacher = tiny_classifier("modernbert")
    student = student_of(teacher, layers=[0, 1, 3])
    assert student.config.layer_types == ["full_attention", "sliding_attention", "sliding_attention"]


# -- training --------------------------------------------------------------------------------------------


def encoded(width: int = len(LABELS)) -> Encoded:
    rows = [[2, 5, 6, 7, 3], [2, 8, 9, 3], [2, 10, 3, 11, 12, 13, 3], [2, 14, 15, 3]]
    return Encoded(
        tokens=np.concatenate(rows).astype(np.int32),
        segments=np.concatenate([np.arange(len(row)) > len(row) // 2 for row in rows]).astype(np.uint8),
        starts=np.cumsum([0, *map(len, rows)]),
        targets=np.array([0, 1, 2, 1]),
        outputs=width,
        pad_id=1,
    )


def test_a_step_on_mixed_rows_trains_the_student_and_not_the_teacher(classifier: PreTrainedModel) -> None:
    student = student_of(classifier, layers=2)
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    taught = {name: weight.clone() for name, weight in classifier.state_dict().items()}
    rows, batch = encoded(), np.arange(4)
    loss = imitate(
        Network(student, rows, mix_at(student, "auto")),
        Network(classifier, rows, mix_at(classifier, "auto")),
        LossSpec(),
        "single_label",
    )
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    student.train()
    (part,) = parts(batch, draw_pairs(batch, 4, MixupSpec(), np.random.default_rng(0)), None)
    terms = loss(part)
    terms["loss"].backward()
    optimiser.step()

    assert set(terms) == {"loss", "mle", "sm", "tmkd"}
    assert all(bool(term.isfinite()) for term in terms.values())
    after = student.state_dict()
    assert all(bool(weight.isfinite().all()) for weight in after.values())
    still = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    known = family(student.config.model_type)
    base = f"{student.base_model_prefix}."
    for part_of_it in (known.word_embeddings, known.embedding_norm, known.encoder_layers):
        assert any(name.startswith(base + part_of_it) for name in after.keys() - still), part_of_it
    assert known.head_weight not in still
    assert all(torch.equal(weight, taught[name]) for name, weight in classifier.state_dict().items())


def test_a_forward_that_fails_leaves_the_model_as_it_was(
    classifier: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers(classifier)
    segments = torch.zeros_like(TOKENS)
    words = embed(classifier, TOKENS, segments, "embedding")
    norm = classifier.base_model.get_submodule(family(classifier.config.model_type).embedding_norm)
    with monkeypatch.context() as broken:
        broken.setattr(norm, "forward", None)
        with pytest.raises(TypeError):
            embed(classifier, TOKENS, segments, "embedding")
        with pytest.raises(TypeError):
            logits(classifier, words, MASK, segments, "embedding")
    assert not norm._forward_hooks
    assert torch.equal(answers(classifier), before)
