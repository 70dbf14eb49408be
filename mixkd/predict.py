"""What a classifier says of texts: a stream of answers, in the texts' order, however many there are."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mixkd.classifier import labels_of
from mixkd.contract.data_spec import Task
from mixkd.contract.folder import inspect_folder
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import Row
from mixkd.contract.spec import Precision
from mixkd.contract.strict import Strict
from mixkd.data import encode
from mixkd.evaluate import answers
from mixkd.losses import probabilities
from mixkd.prepare import refuse_unknown_tokens
from mixkd.teacher import PROBLEM_TYPES, load_teacher, load_tokenizer

MAX_LENGTH = 128  # tokens a row, unless the model reads fewer
_NO_LIMIT = 10**6  # a tokenizer without a limit says some huge number
_CHUNK = 512  # texts in memory at once: enough for batches of similar length


class OneLabel(Strict):
    """Of a single-label task: the likeliest label, and how likely each one is."""

    label: str
    probabilities: dict[str, float]


class SeveralLabels(Strict):
    """Of a multi-label task: the labels that are likelier there than not, and how likely each one is."""

    labels: list[str]
    probabilities: dict[str, float]


class OneScore(Strict):
    """Of a regression, in the units of the data that the model has learned from."""

    score: float


Prediction = OneLabel | SeveralLabels | OneScore


@dataclass(frozen=True)
class Classifier:
    """A model's folder, loaded and ready to answer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    labels: Sequence[str]
    max_length: int


def load(folder: Path, device: torch.device, max_length: int | None = None) -> Classifier:
    """A classifier of a folder, with its own tokenizer and the head that it came with.

    Args:
        max_length: tokens a row; None: as its tokenizer says, or 128; never more than the model reads.

    Raises:
        RefusedError: it cannot be used, has no classification head, or reads fewer tokens.
    """
    info = inspect_folder(folder)
    if info.labels is None:
        raise RefusedError(
            Problem("model", "it has no classification head", folder.name, "name a classifier's folder")
        )
    if max_length is not None and not 4 <= max_length <= info.max_positions:
        raise RefusedError(
            Problem("max_length", f"the model reads at most {info.max_positions} tokens", max_length,
                    f"choose 4 to {info.max_positions}")
        )  # fmt: skip
    model, tokenizer = load_teacher(folder), load_tokenizer(folder, "model")
    said = tokenizer.model_max_length  # our own students say where they were cut in training
    model.to(device)  # type: ignore[arg-type]  # its decorator hides the method's own signature
    return Classifier(
        model,
        tokenizer,
        task_of(model),
        labels_of(model),
        max_length or min(said if said < _NO_LIMIT else MAX_LENGTH, info.max_positions),
    )


def task_of(model: PreTrainedModel) -> Task:
    """What kind of answers a model gives; where its config does not say, the number of its outputs does."""
    said = model.config.problem_type  # transformers refuses what it does not know
    if said is None:
        return "regression" if len(labels_of(model)) == 1 else "single_label"
    return next(task for task, name in PROBLEM_TYPES.items() if name == said)


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str | tuple[str, str] | Row],
    *,
    max_length: int = MAX_LENGTH,
    precision: Precision = "fp32",
) -> Iterator[Prediction]:
    """Answer texts, or pairs of texts, on the model's device. Only a few hundred are in memory at once.

    Raises:
        RefusedError: the tokeniser makes no token of a text, whose line is named, or one that the model
            lacks; or some texts are pairs and some are not.
        NotFiniteError: an answer is NaN or infinite.
    """
    task, labels = task_of(model), labels_of(model)
    rows = (_row(line, text) for line, text in enumerate(texts, start=1))
    while chunk := list(islice(rows, _CHUNK)):
        encoded = encode(chunk, tokenizer, task, labels, max_length)
        refuse_unknown_tokens("model", model, [encoded])
        found = torch.from_numpy(answers(model, encoded, model.device, precision))  # (N, C)
        yield from _predictions(found, task, labels)


def _row(line: int, text: str | tuple[str, str] | Row) -> Row:
    if isinstance(text, Row):
        return text
    first, pair = (text, None) if isinstance(text, str) else text
    return Row(line, first, pair, None)


def _predictions(found: Tensor, task: Task, labels: Sequence[str]) -> Iterator[Prediction]:
    if task == "regression":
        yield from (OneScore(score=score) for score in found[:, 0].tolist())
        return
    for likely in probabilities(found.double(), task).tolist():
        named = dict(zip(labels, likely, strict=True))
        if task == "single_label":
            yield OneLabel(label=max(named, key=named.__getitem__), probabilities=named)
        else:
            there = [label for label, share in named.items() if share > 0.5]
            yield SeveralLabels(labels=there, probabilities=named)
