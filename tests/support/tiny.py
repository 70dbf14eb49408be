"""A tiny model folder and tiny data files, made without torch or numpy."""

import json
import math
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

WORDS = ["what", "who", "where", "when", "is", "was", "the", "a", "man", "city", "year", "name", "##s", "?"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


def safetensors(tensors: Mapping[str, Sequence[int]]) -> bytes:
    """A file with float32 tensors of these shapes, filled with small random numbers."""
    numbers = random.Random(0)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = bytearray()
    for name, shape in tensors.items():
        count = math.prod(shape)
        start = len(body)
        body += struct.pack(f"<{count}f", *(numbers.gauss(0, 0.05) for _ in range(count)))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, len(body)]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(body)


def bert_tensors(layers: int, hidden: int, labels: int = 0) -> dict[str, list[int]]:
    """Names and shapes of a BERT's weights, with a classification head if `labels` is not 0."""
    shapes: dict[str, list[int]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = [rows, columns]
        shapes[f"{name}.bias"] = [rows]

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = [hidden]
        shapes[f"{name}.bias"] = [hidden]

    shapes["bert.embeddings.word_embeddings.weight"] = [len(VOCABULARY), hidden]
    shapes["bert.embeddings.position_embeddings.weight"] = [32, hidden]
    shapes["bert.embeddings.token_type_embeddings.weight"] = [2, hidden]
    norm("bert.embeddings.LayerNorm")
    for number in range(layers):
        layer = f"bert.encoder.layer.{number}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", 2 * hidden, hidden)
        linear(f"{layer}.output.dense", hidden, 2 * hidden)
        norm(f"{layer}.output.LayerNorm")
    linear("bert.pooler.dense", hidden, hidden)
    if labels:
        linear("classifier", labels, hidden)
    return shapes


def write_bert(
    folder: Path, *, layers: int = 2, hidden: int = 8, labels: Sequence[str] = (), **config: object
) -> Path:
    """A model folder that transformers loads: a random BERT of a few thousand parameters.

    Args:
        config: fields of config.json to add or replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fields: dict[str, object] = {
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"],
        "model_type": "bert",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": 2,
        "intermediate_size": 2 * hidden,
        "vocab_size": len(VOCABULARY),
        "max_position_embeddings": 32,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    if labels:
        fields["id2label"] = {str(number): label for number, label in enumerate(labels)}
        fields["label2id"] = {label: number for number, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(fields | config))
    (folder / "model.safetensors").write_bytes(safetensors(bert_tensors(layers, hidden, len(labels))))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def jsonl(*rows: tuple[str, str]) -> bytes:
    """Text and label of each row, as JSON lines."""
    return b"".join(json.dumps({"text": text, "label": label}).encode() + b"\n" for text, label in rows)


QUESTIONS = jsonl(
    ("who is the man ?", "human"),
    ("where is the city ?", "place"),
    ("when was the year ?", "time"),
    ("who was the man ?", "human"),
)
