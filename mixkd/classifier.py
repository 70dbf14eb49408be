"""How a classifier is run: always from word embeddings, since that is where examples are mixed."""

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.contract.families import family


def embed(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """The word embeddings e(x), nothing added yet: (B, T) -> (B, T, H)."""
    words: Tensor = model.get_input_embeddings()(tokens)
    return words


def logits(model: PreTrainedModel, words: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
    """From word embeddings (B, T, H) to logits (B, C).

    The model adds the positions of the sequence and the segments, then come its LayerNorm and dropout.
    """
    known = family(model.config.model_type)
    extra = {"token_type_ids": segments} if known.segment_ids else {}
    result: Tensor = model(
        inputs_embeds=words,
        attention_mask=mask,
        return_dict=True,  # a config may have switched it off
        **extra,
    ).logits
    return result


def ready_to_answer(model: PreTrainedModel) -> None:
    """Switch dropout off."""
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def pick_device(name: str | None) -> torch.device:
    """The named device; without a name the GPU if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # CPU-only builds of torch assert that CUDA is there
        raise ValueError(f"there is no device {name!r} here") from error
    return device


def labels_of(model: PreTrainedModel) -> list[str]:
    """The names of the classes, in the order of the logits."""
    names = cast("dict[int, str]", model.config.id2label)  # the library makes the keys of its JSON numbers
    return [names[number] for number in range(len(names))]
