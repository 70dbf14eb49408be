"""Tiny random models of every family, with tokenizers of their own kind."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test asks the network

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertTokenizer,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

WORDS = [f"word{n}" for n in range(40)]
LAYERS, HIDDEN, LABELS = 4, 16, ("yes", "no", "perhaps")
_SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
_DEBERTA: dict[str, Any] = {
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "pooler_hidden_size": HIDDEN,
}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "roberta": ("roberta", {"type_vocab_size": 1}),
    "xlm-roberta": ("xlm-roberta", {"type_vocab_size": 1}),
    "distilbert": ("distilbert", {"hidden_dim": 32}),
    "electra": ("electra", {"embedding_size": 8}),
    "mpnet": ("mpnet", {}),
    "albert": ("albert", {"embedding_size": 8}),
    "deberta-v2": ("deberta-v2", _DEBERTA | {"conv_kernel_size": 3}),
    "deberta-v3": ("deberta-v2", _DEBERTA | {"position_biased_input": False}),
    "modernbert": (
        "modernbert",  # the first and the third layer see all tokens, the others two on either side
        {
            "local_attention": 4,
            "global_attn_every_n_layers": 2,
            **dict.fromkeys(("bos_token_id", "cls_token_id"), 2),
            **dict.fromkeys(("eos_token_id", "sep_token_id"), 3),
        },
    ),
}
"""Of each kind its `model_type` and what its config.json has beside the common sizes."""


def tiny_config(kind: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a classifier for `LABELS`."""
    model_type, own = KINDS[kind]
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: n for n, label in enumerate(LABELS)}}
    config: PreTrainedConfig = AutoConfig.for_model(model_type, **{**_SIZES, **own, **names, **changes})
    return config


def tiny_encoder(kind: str, *, seed: int = 3, **changes: Any) -> PreTrainedModel:
    """A random encoder without a head; no weight of it is 0 or 1."""
    torch.manual_seed(seed)
    return _scattered(AutoModel.from_config(tiny_config(kind, **changes)))


def tiny_classifier(kind: str, *, seed: int = 3, **changes: Any) -> PreTrainedModel:
    """A random classifier, its dropout off; no weight of it is 0 or 1."""
    torch.manual_seed(seed)
    return _scattered(AutoModelForSequenceClassification.from_config(tiny_config(kind, **changes)))


def _scattered(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return model.eval()


def tiny_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the family's own class that knows `WORDS`; its padding has the number 1."""
    bert_like = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789Ġ"]
    made: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
        "albert": lambda: AlbertTokenizer(vocab=_pieces("<unk>", "<pad>", "[CLS]", "[SEP]", "[MASK]")),
        "deberta-v2": lambda: DebertaV2Tokenizer(vocab=_pieces(*bert_like)),
        "modernbert": lambda: _word_level(bert_like),
        "mpnet": lambda: MPNetTokenizer(vocab=_numbered(["<s>", "<pad>", "</s>", "[UNK]", "<mask>", *WORDS])),
        "roberta": lambda: RobertaTokenizer(
            vocab=_numbered(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]), merges=[]
        ),
        "xlm-roberta": lambda: XLMRobertaTokenizer(
            vocab=[*_pieces("<s>", "<pad>", "</s>", "<unk>"), ("<mask>", 0.0)]
        ),
    }
    return made.get(KINDS[kind][0], lambda: BertTokenizer(vocab=_numbered([*bert_like, *WORDS])))()


def save_folder(model: PreTrainedModel, kind: str, folder: Path) -> Path:
    """A model's folder with its tokenizer, as `save_pretrained` writes both."""
    model.save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def _numbered(words: list[str]) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def _pieces(*special: str) -> list[tuple[str, float]]:
    """A SentencePiece vocabulary: all pieces equally likely."""
    return [(piece, 0.0) for piece in [*special, "▁", *(f"▁{word}" for word in WORDS)]]


def _word_level(special: list[str]) -> PreTrainedTokenizerBase:
    made = Tokenizer(models.WordLevel(_numbered([*special, *WORDS]), unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
