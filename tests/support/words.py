"""A task that a tiny model learns in seconds: does a text name an animal, a colour or a number?"""

import json
import random
from pathlib import Path
from typing import Any

WORDS = {
    "animal": ("cat", "dog", "horse", "sparrow", "salmon"),
    "colour": ("red", "green", "blue", "yellow", "black"),
    "number": ("one", "two", "three", "four", "five"),
}
FILLER = ("the", "a", "is", "of", "and", "what", "which", "here")

QUICK = {
    "student": {"layers": 1},
    "teach": {"epochs": 8, "learning_rate": 3e-3, "batch_size": 16},
    "distil": {"epochs": 8, "learning_rate": 3e-3, "batch_size": 16},
    "max_length": 16,
}
ENDLESS = QUICK | {"teach": {"epochs": 1000}, "distil": {"epochs": 1000}}


def make_teacher(folder: Path, *, labels: list[str] | None = None, scale: float = 1.0) -> Path:
    """Build a tiny BERT; with `labels`, one that has a head for them.

    Args:
        scale: what its word embeddings are multiplied by.
    """
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertModel,
        BertTokenizer,
        PreTrainedModel,
    )

    words = [word for group in WORDS.values() for word in group]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *FILLER]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    model: PreTrainedModel = BertModel(config)
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        model = BertForSequenceClassification(config)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if "word" in name).mul_(scale)
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    return folder


def make_data(folder: Path) -> dict[str, Path]:
    """A file per split, as `client.datasets.upload` takes them."""
    rng = random.Random(0)
    sizes = {"train": 240, "validation": 60, "test": 60}
    return {
        split: write(folder / f"{split}.jsonl", [_row(rng) for _ in range(size)])
        for split, size in sizes.items()
    }


def _row(rng: random.Random) -> dict[str, str]:
    label = rng.choice(list(WORDS))
    words = [*rng.sample(FILLER, 4), rng.choice(WORDS[label])]
    rng.shuffle(words)
    return {"text": " ".join(words), "label": label}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
