"""The teacher: loaded from a local folder of safetensors files, with a new head where it needs one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mixkd.contract.problems import Problem, RefusedError
from mixkd.failures import is_out_of_memory

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokeniser of a model folder.

    Raises:
        RefusedError: the library cannot make one of the folder's files.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # whatever its files make the library raise, the cause is the folder
        if is_out_of_memory(error):
            raise
        raise _unusable("tokeniser", error) from error
    if tokenizer.pad_token_id is None:
        raise RefusedError(Problem("teacher", "its tokeniser has no padding token"))
    return tokenizer


def load_teacher(folder: Path) -> PreTrainedModel:
    """A classifier with the head that it came with.

    Raises:
        RefusedError: a weight is missing, or the library cannot load the folder.
    """
    model, absent = _load(folder)
    _refuse_absent(absent)
    return model


def load_with_new_head(folder: Path, labels: Sequence[str]) -> PreTrainedModel:
    """The encoder of the folder under an untrained head for `labels`, whatever head it had.

    The head is drawn from torch's generator: seed it first.

    Raises:
        RefusedError: a weight of the encoder is missing, or the library cannot load the folder.
    """
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    model, absent = _load(folder, num_labels=len(labels), ignore_mismatched_sizes=True, **names)
    encoder = f"{model.base_model_prefix}."
    # A pooler is often left out of published encoders, and is as new as the head then.
    _refuse_absent([name for name in absent if name.startswith(encoder) and ".pooler." not in name])

    config = AutoConfig.from_pretrained(folder, num_labels=len(labels), **names, **_LOCAL)
    fresh = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    for name, module in fresh.named_children():
        if name != model.base_model_prefix:
            setattr(model, name, module)
    return model


def _load(folder: Path, **options: object) -> tuple[PreTrainedModel, list[str]]:
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
        raise _unusable("model", error) from error
    return model, sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})


def _refuse_absent(names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        raise RefusedError(
            Problem("teacher", f"{len(names)} of its weights are missing or not of the shape that its config "
                    f"says: {shown}", remedy="register the weights that belong to this config.json")
        )  # fmt: skip


def _unusable(part: str, error: Exception) -> RefusedError:
    return RefusedError(
        Problem("teacher", f"its {part} cannot be loaded ({type(error).__name__})",
                remedy="check that the folder loads with plain transformers")
    )  # fmt: skip
