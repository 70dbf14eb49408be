"""The student: some layers of a model that is there, or a new one of the teacher's architecture."""

import copy
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from mixkd.contract.data_spec import Task
from mixkd.contract.families import family
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import StudentSpec
from mixkd.failures import is_out_of_memory
from mixkd.teacher import PROBLEM_TYPES, head_fields, load_encoder, new_classifier

_LAYERS = 3  # of a teacher that has as many, where the recipe does not say

# Fields of a config that no recipe may change: a student shares its teacher's tokenizer and rows, answers
# with its labels, and must be a folder that we would take as a teacher.
_FIXED = {field.name for field in fields(PreTrainedConfig)} | {
    "add_cross_attention", "is_decoder", "max_position_embeddings", "model_type", "num_hidden_groups",
    "output_attentions", "tie_word_embeddings", "type_vocab_size", "use_cache", "vocab_size",
}  # fmt: skip


def build_student(
    spec: StudentSpec,
    teacher: PreTrainedModel,
    *,
    origin: PreTrainedModel | None = None,
    folder: Path | None = None,
    labels: Sequence[str],
    task: Task,
) -> PreTrainedModel:
    """The student that a recipe describes, see `StudentSpec`. The teacher is left as it is.

    Over the teacher's layers the student has the teacher's head, else a new one for `labels`. That goes for
    `origin` too: a head that was trained on fine-tuned layers says nothing of others. What is new is drawn
    from torch's generator: seed it first.

    A student of k ALBERT layers has all the weights of its teacher, whose one layer it applies k times: it is
    faster, and not smaller.

    Args:
        origin: the teacher before it was fine-tuned, for `origin`; without it, `folder` has it.
        folder: of the encoder for `model`, or for `origin`.
        labels: names of the outputs of a new head; a regression has one, `score`, and asks for none.

    Raises:
        RefusedError: with the field `recipe.student.layers`, `recipe.student.config` or `student`.
    """
    if spec.init == "config":
        return _random(spec, teacher, labels, task)
    if spec.init == "teacher":
        student = _cut(teacher, _chosen(spec, teacher), teacher.config, head=True)
        student.config.problem_type = PROBLEM_TYPES[task]
        return student
    if spec.init == "origin" and origin is not None:
        source = origin
    else:
        assert folder is not None
        source = load_encoder(folder, "student")
    if spec.init == "origin":
        _refuse_another(source, teacher)
    return _cut(source, _chosen(spec, source), _headed(source.config, labels, task), head=False)


def layer_numbers(spec: StudentSpec, available: int) -> list[int]:
    """Which of a model's `available` layers a student has, counted from 0.

    `even`: the first, the last, and those nearest to evenly spaced places between; 6 of 12 are 0, 2, 4, 7, 9
    and 11, as in DistilBERT. One layer alone is the first.

    Raises:
        RefusedError: there are not so many; the field is `recipe.student.layers`.
    """
    wanted = spec.layers
    if wanted is None:
        wanted = available if spec.init == "model" else min(_LAYERS, available)
    last = wanted[-1] if isinstance(wanted, tuple) else wanted - 1
    if last >= available:
        asked = f"layer {last}" if isinstance(wanted, tuple) else f"{wanted} layers"
        has = f"layers 0 to {available - 1}" if available > 1 else "one layer"
        raise _refused("layers", f"it asks for {asked}, but the model has {has}", spec.layers)
    if isinstance(wanted, tuple):
        return list(wanted)
    if spec.pick == "last":
        return list(range(available - wanted, available))
    if spec.pick == "even" and wanted > 1:
        gaps = wanted - 1
        return [(2 * number * (available - 1) + gaps) // (2 * gaps) for number in range(wanted)]
    return list(range(wanted))


def _chosen(spec: StudentSpec, source: PreTrainedModel) -> list[int]:
    known = family(source.config.model_type)
    if known.shared_layers and (isinstance(spec.layers, tuple) or spec.pick != "first"):
        raise _refused("layers", "all layers of an ALBERT are the same one: only their number counts",
                       spec.layers, "give a number of layers, and leave `pick` out")  # fmt: skip
    return layer_numbers(spec, getattr(source.config, known.layers_key))


def _refuse_another(origin: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """The student reads the teacher's tokens, so that its weights must be of the same making."""
    for name in ("model_type", "vocab_size", "hidden_size"):
        ours, theirs = getattr(origin.config, name), getattr(teacher.config, name)
        if ours != theirs:
            raise RefusedError(
                Problem("student", f"it is not what the teacher was before: its `{name}` is {ours}, the "
                        f"teacher's {theirs}", ours, "set `recipe.student.init` to `model`")
            )  # fmt: skip


# -- layers of a model -----------------------------------------------------------------------------------


def _cut(
    source: PreTrainedModel, layers: list[int], config: PreTrainedConfig, *, head: bool
) -> PreTrainedModel:
    """Some encoder layers of a model with all that is around them, and its head or a new one.

    It is built anew, as plain transformers will when it loads the student: what a layer is can depend on its
    number. ModernBERT's first one has no LayerNorm of its own, since the embeddings come normalised.
    """
    known = family(source.config.model_type)
    config = copy.deepcopy(config)
    setattr(config, known.layers_key, len(layers))
    if (
        getattr(config, "layer_types", None) is not None
    ):  # which of ModernBERT's layers see only nearby tokens
        config.layer_types = [config.layer_types[number] for number in layers]
    student = new_classifier(config)

    base = f"{source.base_model_prefix}."
    in_layers = re.compile(re.escape(f"{base}{known.encoder_layers}.") + r"(\d+)(\..+)")
    weights = {}
    for name, weight in source.state_dict().items():
        if not (head or name.startswith(base)):
            continue
        match = None if known.shared_layers else in_layers.fullmatch(name)
        if match is None:
            weights[name] = weight
        elif int(match[1]) in layers:
            weights[f"{base}{known.encoder_layers}.{layers.index(int(match[1]))}{match[2]}"] = weight
    missing, left_out = student.load_state_dict(weights, strict=False)
    assert all(not head and not name.startswith(base) for name in missing)
    assert all(name.startswith(f"{base}{known.encoder_layers}.0.") for name in left_out)
    student.to(source.device)  # type: ignore[arg-type]  # its decorator hides the method's own signature
    return student


def _headed(config: PreTrainedConfig, labels: Sequence[str], task: Task) -> PreTrainedConfig:
    """The same configuration with another head."""
    config = copy.deepcopy(config)
    for name, value in head_fields(labels, task).items():
        setattr(config, name, value)
    return config


# -- random weights --------------------------------------------------------------------------------------


def _random(
    spec: StudentSpec, teacher: PreTrainedModel, labels: Sequence[str], task: Task
) -> PreTrainedModel:
    known = family(teacher.config.model_type)
    if isinstance(spec.layers, tuple) or spec.pick != "first":
        raise _refused("layers", "random layers cannot be picked from", spec.layers, "give their number")
    changes = dict(spec.config)
    if spec.layers is not None:
        if known.layers_key in changes:
            raise _refused("config", f"`layers` says what `{known.layers_key}` is", known.layers_key)
        changes[known.layers_key] = spec.layers
    described = teacher.config.to_dict()
    _refuse_fields(changes, described)
    if changes.get(known.layers_key, described[known.layers_key]) != described[known.layers_key]:
        described.pop("layer_types", None)  # one kind a layer; the library knows which to give to how many
    try:
        config = type(teacher.config).from_dict({**described, **changes, **head_fields(labels, task)})
        config._attn_implementation = teacher.config._attn_implementation
        student = new_classifier(config)
        _try(student)
    except Exception as error:  # the library raises whatever comes of sizes that do not fit together
        if is_out_of_memory(error):
            raise
        raise _refused("config", f"no model can be made of it ({type(error).__name__}: {error})"[:300],
                       spec.config) from error  # fmt: skip
    student.to(teacher.device)  # type: ignore[arg-type]  # its decorator hides the method's own signature
    return student


def _refuse_fields(changes: dict[str, int | float | str | bool], described: dict[str, object]) -> None:
    free = {
        name
        for name, value in described.items()
        if name not in _FIXED and not name.startswith("_") and not name.endswith("_token_id")
        and not isinstance(value, list | dict)
    }  # fmt: skip
    for name in changes:
        if name not in free:
            raise _refused("config", f"`{name}` is no field that can differ from the teacher's", name,
                           f"use {', '.join(sorted(free))}")  # fmt: skip


def _try(model: PreTrainedModel) -> None:
    """Some sizes do not fit together, and the library finds out when it runs."""
    layers = getattr(model.config, family(model.config.model_type).layers_key)
    if layers < 1:
        raise ValueError(f"{layers} layers")
    ones = torch.ones((1, 2), dtype=torch.int64)
    with torch.inference_mode():
        model(input_ids=ones, attention_mask=ones)


def _refused(field: str, problem: str, value: object, remedy: str | None = None) -> RefusedError:
    return RefusedError(Problem(f"recipe.student.{field}", problem, value, remedy))
