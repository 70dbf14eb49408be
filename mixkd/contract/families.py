"""The encoders we know, as data: how each names its sizes, its embeddings and its layers.

Paths are attribute paths in the transformers library (5.x). `head_weight` starts at the classifier model, all
others at the base model (`model.base_model`). Tensor names in a safetensors file are the same paths, with or
without the base model's prefix in front.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One architecture.

    `layers_key`, `hidden_key`: the fields of config.json with the number of encoder layers and their width.
    `embedding_keys`: the first of these fields that is there has the width of the embedding table.
    `embedding_norm`: the LayerNorm of the embedding block, `head_weight`: the head's last linear layer.
    `shared_layers`: every layer is the same weights, applied again, so that the weights hold one.
    `segment_ids`: whether a second text can be told from the first by segment ids. `positions_after_padding`:
    positions are counted from `pad_token_id` + 1, so that many fewer tokens fit than
    `max_position_embeddings` says.
    """

    model_type: str
    base_prefix: str
    layers_key: str = "num_hidden_layers"
    hidden_key: str = "hidden_size"
    embedding_keys: tuple[str, ...] = ("hidden_size",)
    embeddings: str = "embeddings"
    word_embeddings: str = "embeddings.word_embeddings"
    embedding_norm: str = "embeddings.LayerNorm"
    encoder_layers: str = "encoder.layer"
    head_weight: str = "classifier.weight"
    shared_layers: bool = False
    segment_ids: bool = False
    positions_after_padding: bool = False
    pad_token_id: int = 0  # where config.json does not say


_ALL = (
    Family("bert", "bert", segment_ids=True),
    Family(
        "roberta",
        "roberta",
        head_weight="classifier.out_proj.weight",
        positions_after_padding=True,
        pad_token_id=1,
    ),
    Family(
        "xlm-roberta",
        "roberta",
        head_weight="classifier.out_proj.weight",
        positions_after_padding=True,
        pad_token_id=1,
    ),
    Family(
        "distilbert",
        "distilbert",
        layers_key="n_layers",
        hidden_key="dim",
        embedding_keys=("dim",),
        encoder_layers="transformer.layer",
    ),
    Family(
        "electra",
        "electra",
        embedding_keys=("embedding_size",),
        head_weight="classifier.out_proj.weight",
        segment_ids=True,
    ),
    Family(
        "mpnet",
        "mpnet",
        head_weight="classifier.out_proj.weight",
        positions_after_padding=True,
        pad_token_id=1,
    ),
    Family(
        "albert",
        "albert",
        embedding_keys=("embedding_size",),
        encoder_layers="encoder.albert_layer_groups",
        shared_layers=True,
        segment_ids=True,
    ),
    Family("deberta-v2", "deberta", embedding_keys=("embedding_size", "hidden_size"), segment_ids=True),
    Family(
        "modernbert",
        "model",
        word_embeddings="embeddings.tok_embeddings",
        embedding_norm="embeddings.norm",
        encoder_layers="layers",
    ),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ALL}


def family(model_type: str) -> Family:
    """The family of a config.json's `model_type`.

    Raises:
        KeyError: not one of ours.
    """
    return FAMILIES[model_type]
