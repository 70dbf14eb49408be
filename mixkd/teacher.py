"""Models of local folders of safetensors files: as they are, or their encoder under a new head."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mixkd.classifier import ready_to_answer
from mixkd.contract.data_spec import Task
from mixkd.contract.problems import Problem, RefusedError
from mixkd.failures import is_out_of_memory

_LOCAL = {"local_files_only": True, "trust_remote_code": False}

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
PROBLEM_TYPES: dict[Task, ProblemType] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
"""What plain transformers reads in a config, and takes the loss of `model(…, labels=…)` from."""

SCORE = "score"  # the name of a regression's one output


def head_fields(labels: Sequence[str], task: Task) -> dict[str, object]:
    """The fields of a config that describe a head; of a regression, that needs no `labels`, a score's."""
    names = [SCORE] if task == "regression" else list(labels)
    return {
        "num_labels": len(names),  # before the names: setting it makes new ones
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
        "problem_type": PROBLEM_TYPES[task],
    }


def load_tokenizer(folder: Path, field: str = "teacher") -> PreTrainedTokenizerBase:
    """The tokeniser of a model folder.

    Args:
        field: the part of the description that named the folder.

    Raises:
        RefusedError: the library cannot make one of the folder's files.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # whatever its files make the library raise, the cause is the folder
        if is_out_of_memory(error):
            raise
        raise _unusable(field, "tokeniser", error) from error
    if tokenizer.pad_token_id is None:
        raise RefusedError(Problem(field, "its tokeniser has no padding token"))
    return tokenizer


def load_teacher(folder: Path) -> PreTrainedModel:
    """A classifier with the head that it came with.

    Raises:
        RefusedError: a weight is missing, or the library cannot load the folder.
    """
    model, absent = _load(folder, "teacher")
    _refuse_absent("teacher", absent)
    return model


def load_with_new_head(folder: Path, labels: Sequence[str], task: Task) -> PreTrainedModel:
    """The encoder of the folder under an untrained head for the task, whatever head it had.

    The head is drawn from torch's generator, and so is a pooler that the folder lacks: seed it first.

    Args:
        labels: names of the outputs; a regression has one, `score`, and asks for none.

    Raises:
        RefusedError: a weight of the encoder is missing, or the library cannot load the folder.
    """
    model = load_encoder(folder, "teacher", **head_fields(labels, task))
    fresh = new_classifier(copy.deepcopy(model.config))
    for name, module in fresh.named_children():
        if name != model.base_model_prefix:
            setattr(model, name, module)
    return model


def load_encoder(folder: Path, field: str = "teacher", **described: object) -> PreTrainedModel:
    """The encoder of the folder, under a head that means nothing: the folder's, or a random one.

    A pooler that the folder lacks is drawn from torch's generator: seed it first.

    Args:
        field: the part of the description that named the folder.
        described: fields of config.json that shall be others.

    Raises:
        RefusedError: a weight of the encoder is missing, or the library cannot load the folder.
    """
    model, absent = _load(folder, field, ignore_mismatched_sizes=True, **described)
    encoder = f"{model.base_model_prefix}."
    # A pooler is often left out of published encoders, and is as new as the head then.
    _refuse_absent(field, [name for name in absent if name.startswith(encoder) and ".pooler." not in name])
    return model


def new_classifier(config: PreTrainedConfig) -> PreTrainedModel:
    """A classifier in float32 with weights drawn from torch's generator; its dropout is off."""
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        config, dtype=torch.float32
    )
    ready_to_answer(model)
    return model


def _load(folder: Path, field: str, **options: object) -> tuple[PreTrainedModel, list[str]]:
    """The model in float32, and the names of the weights that its files lack, or have in another shape.

    The library fills those in at random.
    """
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **_LOCAL,
            **options,
        )
    except Exception as error:  # a config's field can make the library raise anything
        if is_out_of_memory(error):
            raise
        raise _unusable(field, "model", error) from error
    return model, sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})


def _refuse_absent(field: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise RefusedError(
            Problem(field, f"{len(names)} of its weights are missing or not of the shape that its config "
                    f"says: {shown}", remedy="register the weights that belong to this config.json")
        )  # fmt: skip


def _unusable(field: str, part: str, error: Exception) -> RefusedError:
    return RefusedError(
        Problem(field, f"its {part} cannot be loaded ({type(error).__name__})",
                remedy="check that the folder loads with plain transformers")
    )  # fmt: skip
