"""Which student a recipe makes; what holds for every family is in `families/test_models.py`."""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from mixkd.classifier import labels_of
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import StudentSpec
from mixkd.randomness import seed_torch
from mixkd.student import build_student, layer_numbers
from mixkd.teacher import load_encoder
from tests.support.encoders import KINDS, save_folder, tiny_classifier, tiny_encoder

TOKENS = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 9, 10, 3]])
NEW = ("low", "high")


def spec_of(**fields: object) -> StudentSpec:
    return StudentSpec.model_validate(fields)


def build(spec: StudentSpec, teacher: PreTrainedModel, **more: object) -> PreTrainedModel:
    seed_torch(5, "student")
    return build_student(spec, teacher, **{"labels": NEW, "task": "single_label", **more})


def refusal(spec: StudentSpec, teacher: PreTrainedModel, **more: object) -> Problem:
    with pytest.raises(RefusedError) as caught:
        build(spec, teacher, **more)
    (problem,) = caught.value.problems
    return problem


def answers(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=TOKENS).logits
    return found


def same_encoder(ours: PreTrainedModel, theirs: PreTrainedModel) -> bool:
    weights = theirs.base_model.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in ours.base_model.state_dict().items())


# -- which layers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "available", "expected"),
    [
        ({}, 12, [0, 1, 2]),
        ({}, 2, [0, 1]),
        ({"init": "model"}, 4, [0, 1, 2, 3]),
        ({"layers": 6}, 12, [0, 1, 2, 3, 4, 5]),
        ({"layers": 6, "pick": "last"}, 12, [6, 7, 8, 9, 10, 11]),
        ({"layers": 6, "pick": "even"}, 12, [0, 2, 4, 7, 9, 11]),
        ({"layers": 3, "pick": "even"}, 6, [0, 3, 5]),
        ({"layers": 2, "pick": "even"}, 24, [0, 23]),
        ({"layers": 1, "pick": "even"}, 12, [0]),
        ({"layers": [1, 4, 11]}, 12, [1, 4, 11]),
    ],
)
def test_layers_are_picked_as_the_recipe_says(
    fields: dict[str, object], available: int, expected: list[int]
) -> None:
    assert layer_numbers(spec_of(**fields), available) == expected


@pytest.mark.parametrize("available", range(1, 30))
def test_evenly_picked_layers_differ_and_reach_both_ends(available: int) -> None:
    for count in range(2, available + 1):
        chosen = layer_numbers(spec_of(layers=count, pick="even"), available)
        gaps = {b - a for a, b in itertools.pairwise(chosen)}
        assert (chosen[0], chosen[-1], len(chosen)) == (0, available - 1, count)
        assert max(gaps) - min(gaps) <= 1
        assert min(gaps) >= 1


@pytest.mark.parametrize(("layers", "asked"), [(5, "5 layers"), ((0, 4), "layer 4")])
def test_layers_that_are_not_there_are_refused_with_the_range(layers: object, asked: str) -> None:
    problem = refusal(spec_of(layers=layers), tiny_classifier("bert"))
    assert problem.field == "recipe.student.layers"
    assert asked in problem.problem
    assert "layers 0 to 3" in problem.problem


@pytest.mark.parametrize("fields", [{"layers": [0, 1]}, {"layers": 2, "pick": "last"}, {"pick": "even"}])
def test_alberts_layers_cannot_be_chosen_from(fields: dict[str, object]) -> None:
    assert refusal(spec_of(**fields), tiny_classifier("albert")).field == "recipe.student.layers"


# -- what the weights start from -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "problem_type"),
    [("multi_label", "multi_label_classification"), ("single_label", "single_label_classification")],
)
def test_over_the_teachers_layers_is_the_teachers_head(task: str, problem_type: str) -> None:
    teacher = tiny_classifier("bert")
    student = build(spec_of(), teacher, task=task)
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert labels_of(student) == labels_of(teacher)
    assert student.config.problem_type == problem_type
    assert teacher.config.problem_type is None


@pytest.mark.parametrize("from_folder", [True, False])
def test_over_the_origins_layers_is_a_new_head_from_the_seed(tmp_path: Path, from_folder: bool) -> None:
    folder = save_folder(tiny_encoder("roberta", seed=9), "roberta", tmp_path)
    teacher, origin = tiny_classifier("roberta", seed=3), load_encoder(folder)
    given = {"folder": folder} if from_folder else {"origin": origin}
    student = build(spec_of(init="origin", layers=4), teacher, **given)
    assert same_encoder(student, origin)
    assert not same_encoder(student, teacher)
    assert labels_of(student) == list(NEW)
    assert torch.equal(answers(student), answers(build(spec_of(init="origin", layers=4), teacher, **given)))
    seed_torch(6, "student")
    other = build_student(spec_of(init="origin", layers=4), teacher, **given, labels=NEW, task="single_label")
    assert not torch.equal(answers(student), answers(other))


@pytest.mark.parametrize(
    ("kind", "changes"), [("bert", {"vocab_size": 61}), ("bert", {"hidden_size": 8}), ("electra", {})]
)
def test_an_origin_that_cannot_have_been_the_teachers_is_refused(
    kind: str, changes: dict[str, object]
) -> None:
    origin = tiny_classifier(kind, **changes)
    assert refusal(spec_of(init="origin"), tiny_classifier("bert"), origin=origin).field == "student"


def test_another_model_keeps_its_width_and_its_vocabulary_and_gets_a_new_head(tmp_path: Path) -> None:
    encoder = tiny_encoder("electra", hidden_size=8, vocab_size=70)
    folder = save_folder(encoder, "electra", tmp_path)
    student = build(spec_of(init="model"), tiny_classifier("bert"), folder=folder)
    assert (student.config.model_type, student.config.hidden_size) == ("electra", 8)
    assert student.get_input_embeddings().weight.shape[0] == 70
    assert labels_of(student) == list(NEW)
    assert answers(student).shape == (2, 2)
    assert all(
        torch.equal(value, encoder.state_dict()[name])
        for name, value in student.base_model.state_dict().items()
    )
    fewer = build(spec_of(init="model", layers=[1, 3]), tiny_classifier("bert"), folder=folder)
    assert fewer.config.num_hidden_layers == 2


def test_a_student_of_a_score_has_one_output(tmp_path: Path) -> None:
    folder = save_folder(tiny_encoder("bert"), "bert", tmp_path)
    student = build(
        spec_of(init="model"), tiny_classifier("bert"), folder=folder, labels=(), task="regression"
    )
    assert (labels_of(student), student.config.problem_type) == (["score"], "regression")


@pytest.mark.parametrize("init", ["teacher", "config"])
def test_a_student_attends_by_the_same_kernels_as_its_teacher(init: str) -> None:
    """Which is chosen once a job."""
    teacher = tiny_classifier("bert")
    for chosen in ("eager", "sdpa"):
        teacher.set_attn_implementation(chosen)
        assert build(spec_of(init=init), teacher).config._attn_implementation == chosen


# -- random weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_student_has_the_teachers_architecture_but_for_what_is_said(kind: str) -> None:
    teacher = tiny_classifier(kind)
    width = "dim" if kind == "distilbert" else "hidden_size"
    changes: dict[str, object] = {width: 8}
    if kind.startswith("deberta"):
        changes["pooler_hidden_size"] = 8
    student = build(spec_of(init="config", layers=3, config=changes), teacher)
    again = build(spec_of(init="config", layers=3, config=changes), teacher)
    assert (student.config.model_type, student.config.vocab_size) == (teacher.config.model_type, 60)
    assert (student.config.num_hidden_layers, student.config.hidden_size) == (3, 8)
    assert labels_of(student) == list(NEW)
    assert torch.equal(answers(student), answers(again)), "its weights must come from the seed"
    assert teacher.config.hidden_size == 16


@pytest.mark.parametrize(("spec", "layers"), [({}, 4), ({"config": {"num_hidden_layers": 6}}, 6)])
def test_a_random_student_has_as_many_layers_as_its_config_says(spec: dict[str, object], layers: int) -> None:
    student = build(spec_of(init="config", **spec), tiny_classifier("modernbert"))
    assert student.config.num_hidden_layers == layers
    assert student.config.layer_types == (["full_attention", "sliding_attention"] * 3)[:layers]


@pytest.mark.parametrize(
    "field",
    [
        "vocab_size", "pad_token_id", "max_position_embeddings", "type_vocab_size", "model_type", "id2label",
        "num_labels", "problem_type", "auto_map", "_attn_implementation", "attn_implementation", "dtype",
        "hiden_size", "output_attentions", "output_hidden_states", "return_dict",
    ],
)  # fmt: skip
def test_a_field_that_is_the_teachers_or_unknown_is_refused(field: str) -> None:
    problem = refusal(spec_of(init="config", config={field: 8}), tiny_classifier("bert"))
    assert (problem.field, problem.value) == ("recipe.student.config", field)
    assert problem.remedy is not None
    assert "hidden_size" in problem.remedy
    assert "vocab_size" not in problem.remedy


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bert", {"hidden_size": 9}),
        ("bert", {"hidden_size": "wide"}),
        ("bert", {"hidden_act": "someone/kernel"}),
        ("bert", {"num_hidden_layers": 0}),
        ("albert", {"num_attention_heads": 3}),
        ("deberta-v3", {"hidden_size": 8}),
    ],
)
def test_sizes_that_make_no_model_are_refused(kind: str, changes: dict[str, object]) -> None:
    problem = refusal(spec_of(init="config", config=changes), tiny_classifier(kind))
    assert problem.field == "recipe.student.config"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"layers": [0, 1]}, "layers"),
        ({"layers": 2, "pick": "last"}, "layers"),
        ({"layers": 2, "config": {"num_hidden_layers": 2}}, "config"),
    ],
)
def test_a_random_student_has_nothing_to_pick_from(fields: dict[str, object], field: str) -> None:
    problem = refusal(spec_of(init="config", **fields), tiny_classifier("bert"))
    assert problem.field == f"recipe.student.{field}"
