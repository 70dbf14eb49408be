"""How a classifier is run: always from its embeddings, since that is where examples are mixed.

Shapes: B rows, T positions, E width of the embeddings, C outputs. A model is run by one thread at a time.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import Linear, Module
from transformers import PreTrainedModel

from mixkd.contract.families import family
from mixkd.contract.spec import Precision

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

MixAt = Literal["word", "embedding"]
"""`word`: before anything is added to the word embeddings. `embedding`: what the embedding LayerNorm made of
them and of all that was added."""


def mix_at(model: PreTrainedModel, wanted: Literal["auto"] | MixAt) -> MixAt:
    """Where a model's rows are mixed, if nobody says: `word` as in the paper, unless its LayerNorm undoes λ.

    Where nothing is added before the embedding LayerNorm (DeBERTa-v3, ModernBERT), LN(λ·e) ≈ LN(e): what only
    one row of a pair has would come in at full strength whatever λ is.
    """
    if wanted != "auto":
        return wanted
    block = model.base_model.get_submodule(family(model.config.model_type).embeddings)
    added = ("position_embeddings", "token_type_embeddings")
    return "word" if any(isinstance(getattr(block, name, None), Module) for name in added) else "embedding"


def embed(model: PreTrainedModel, tokens: Tensor, segments: Tensor, at: MixAt) -> Tensor:
    """Rows where they are mixed, before dropout: (B, T) -> (B, T, E)."""
    words: Tensor = model.get_input_embeddings()(tokens)
    if at == "word":
        return words
    block = model.base_model.get_submodule(family(model.config.model_type).embeddings)
    made: list[Tensor] = []
    with _embedding_norm(model).register_forward_hook(lambda _norm, _given, output: made.append(output)):
        # By embeddings, as in `logits`: by tokens, RoBERTa would count its positions in another way.
        block(input_ids=None, inputs_embeds=words, **_segments(model, segments))
    return made[0]


def logits(model: PreTrainedModel, words: Tensor, mask: Tensor, segments: Tensor, at: MixAt) -> Tensor:
    """From what `embed` gave, mixed or not, to the answers: (B, T, E) -> (B, C).

    From `word` on, the model adds the positions of the sequence and the segments and normalises; from
    `embedding` on that is done, and `segments` mean nothing any more. Dropout comes next.
    """
    if at == "word":
        return _forward(model, words, mask, segments)
    unread = model.get_input_embeddings()(torch.zeros_like(mask))  # any words: they end at the LayerNorm
    with _embedding_norm(model).register_forward_hook(lambda *_: words):
        return _forward(model, unread, mask, segments)


def _forward(model: PreTrainedModel, words: Tensor, mask: Tensor, segments: Tensor) -> Tensor:
    result: Tensor = model(
        inputs_embeds=words,
        attention_mask=mask,
        return_dict=True,  # a config may have switched it off
        **_segments(model, segments),
    ).logits
    return result


def _embedding_norm(model: PreTrainedModel) -> Module:
    return model.base_model.get_submodule(family(model.config.model_type).embedding_norm)


def _segments(model: PreTrainedModel, segments: Tensor) -> dict[str, Tensor]:
    """Segment ids as an argument, for a model that can tell a second text by them."""
    known = family(model.config.model_type)
    return {"token_type_ids": segments} if known.segment_ids and model.config.type_vocab_size > 1 else {}


def scale_head(model: PreTrainedModel, shift: float, scale: float) -> None:
    """Let the model answer `scale` · answer + `shift`, by its head's last linear layer, in place."""
    last = _last_layer(model)
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale).add_(shift)


def order_outputs(model: PreTrainedModel, labels: Sequence[str]) -> None:
    """Let the outputs come in the order of `labels`, those of other names after them, in place.

    The order of a published teacher is its maker's; what a metric calls the second class is the data's.
    """
    names = labels_of(model)
    wanted = [label for label in labels if label in names]
    wanted += [name for name in names if name not in wanted]
    if wanted == names:
        return
    last, order = _last_layer(model), [names.index(label) for label in wanted]
    with torch.no_grad():
        last.weight.copy_(last.weight[order])
        last.bias.copy_(last.bias[order])
    model.config.id2label = dict(enumerate(wanted))
    model.config.label2id = {label: number for number, label in enumerate(wanted)}


def _last_layer(model: PreTrainedModel) -> Linear:
    last = model.get_submodule(family(model.config.model_type).head_weight.removesuffix(".weight"))
    assert isinstance(last, Linear)
    return last


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Within it forward passes run in the precision; weights stay as they are."""
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def ready_to_answer(model: PreTrainedModel) -> None:
    """Switch dropout off."""
    model.eval()  # type: ignore[no-untyped-call]  # transformers leaves it untyped


def pick_device(name: str | None) -> torch.device:
    """The named device, a CPU or a CUDA GPU; without a name the GPU if there is one, else the CPU.

    Raises:
        ValueError: there is no such device here, or it is of another kind.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"{name!r} is neither a CPU nor a CUDA GPU")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # CPU-only builds of torch assert that CUDA is there
        raise ValueError(f"there is no device {name!r} here") from error
    return device


def labels_of(model: PreTrainedModel) -> list[str]:
    """The names of the outputs, in their order."""
    names = cast("dict[int, str]", model.config.id2label)  # the library makes the keys of its JSON numbers
    return [names[number] for number in range(len(names))]
