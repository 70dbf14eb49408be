"""Tiny random models and a tiny learnable data set: everything real but the size."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test asks the network

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    PreTrainedModel,
)

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.messages import Message
from mixkd.contract.spec import DistilSpec, MixupSpec, RunSpec, RuntimeSpec, TrainSpec
from mixkd.data import encode, read_sets
from mixkd.objectives import Objective
from mixkd.reporter import Reporter
from mixkd.teacher import load_tokenizer
from mixkd.training.control import Control
from mixkd.training.loop import train
from mixkd.training.state import Outcome, Surroundings, TrainData
from tests.support.training import CPU, SPEC, Fit, finetune

COLOURS = ("red", "green", "blue")
WORDS = (*COLOURS, *(f"word{n}" for n in range(30)), "?")


def tiny_config(**changes: object) -> BertConfig:
    sizes = {
        "vocab_size": 5 + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    }
    return BertConfig(**{**sizes, **changes})


def save_tokenizer(folder: Path) -> None:
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertTokenizer(vocab=vocabulary, model_max_length=32).save_pretrained(folder)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of four layers without a classification head."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(1)
    BertModel(tiny_config()).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same size with a head for the three colours and one class that the data does not have."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(2)
    labels = ["none", *reversed(COLOURS)]  # not the alphabet's order: numbers must come from names
    config = tiny_config(id2label=dict(enumerate(labels)), label2id={v: n for n, v in enumerate(labels)})
    BertForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def classifier(classifier_folder: Path) -> PreTrainedModel:
    return BertForSequenceClassification.from_pretrained(classifier_folder).eval()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    """Texts of two to twelve words; the label is the colour that they mention."""
    folder = tmp_path_factory.mktemp("data")
    files = {}
    for split, rows in (("train", 61), ("validation", 17), ("test", 13)):
        lines = []
        for n in range(rows):
            colour = COLOURS[n % 3]
            words = [f"word{(n * 7 + k * len(split)) % 30}" for k in range(1 + n % 11)]
            words.insert(n % (len(words) + 1), colour)
            lines.append(json.dumps({"text": " ".join(words), "label": colour}))
        files[split] = folder / f"{split}.jsonl"
        files[split].write_text("\n".join(lines) + "\n")
    return DataSpec(files=files)


MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec(encoder_folder: Path, data: DataSpec) -> MakeSpec:
    """A run of a few steps; keyword arguments change parts of its recipe, or `teacher`."""

    def make(teacher: Path = encoder_folder, **changes: object) -> RunSpec:
        recipe = {
            "student": {"layers": 2},
            "teach": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3},
            "distil": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3},
            "max_length": 16,
            **changes,
        }
        return RunSpec(teacher=teacher, data=data, recipe=DistilSpec.model_validate(recipe))

    return make


@pytest.fixture
def messages() -> list[Message]:
    """What the `reporter` of the same test was told."""
    return []


@pytest.fixture
def reporter(messages: list[Message]) -> Reporter:
    return Reporter(messages.append)


@pytest.fixture(scope="session")
def rows(classifier_folder: Path, data: DataSpec) -> TrainData:
    """The data, cut by the classifier's tokenizer."""
    sets, _ = read_sets(data, DistilSpec())
    tokenizer = load_tokenizer(classifier_folder)
    coded = {
        name: encode(some, tokenizer, "single_label", ("none", "blue", "green", "red"), 16)
        for name, some in sets.items()
    }
    return TrainData(coded["train"], coded["validation"], "single_label", ("accuracy", "macro_f1"))


@pytest.fixture
def control() -> Control:
    """What the training of the same test looks at."""
    return Control()


@pytest.fixture
def fit(
    classifier: PreTrainedModel, rows: TrainData, reporter: Reporter, control: Control, tmp_path: Path
) -> Fit:
    """Fine-tune the classifier for three epochs of eight steps, without checkpoints before the end."""

    def fit(
        model: PreTrainedModel = classifier,
        objective: Objective | None = None,
        spec: TrainSpec = SPEC,
        *,
        data: TrainData = rows,
        seed: int = 1,
        folder: str = "teach",
        mixup: MixupSpec | None = None,
        stream: str | None = None,
        first_step: int | None = None,
        **runtime: Any,
    ) -> Outcome:
        chosen = RuntimeSpec.model_validate({"precision": "fp32", "checkpoint_seconds": 1e4, **runtime})
        around = Surroundings(seed, CPU, chosen, reporter, control, tmp_path / folder)
        return train(
            "teach", model, objective or finetune(model, data), data, spec,
            mixup=mixup, around=around, stream=stream, first_step=first_step,
        )  # fmt: skip

    return fit
