"""Texts without labels, labelled by the taught teacher: with its probabilities, or its score."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mixkd.augment.cache import digest, remembered
from mixkd.augment.seam import STOPPED, Augmenter, Context, Made, Teacher
from mixkd.contract.augment_spec import Unlabelled
from mixkd.contract.data_spec import DataSpec, Task
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import Label, Row, Soft
from mixkd.data import encode, read_texts
from mixkd.evaluate import answers

TRAINED_ON = "text of a training row"
REPEATED = "text of an earlier row"
UNSURE = "below least_confidence"

_VERSION = 1
_CHUNK = 1024  # texts: what the cache keeps together, and how far it is to the next look at `should_stop`


def _check(spec: Unlabelled, data: DataSpec) -> None:
    if spec.least_confidence and data.task != "single_label":
        raise RefusedError(
            Problem("least_confidence", f"the outputs of a {data.task} task do not share one probability",
                    spec.least_confidence, "leave it out")
        )  # fmt: skip
    read_texts(spec.file, data)


def _made_from(spec: Unlabelled, context: Context) -> dict[str, str]:
    with spec.file.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": content, "teacher": _fingerprint(_teacher(context))}


def _make(rows: Sequence[Row], spec: Unlabelled, made_from: Mapping[str, str], context: Context) -> Made:
    teacher = _teacher(context)
    texts, dropped = _new_texts(read_texts(spec.file, context.data), rows)
    made: list[Row] = []
    for start in range(0, len(texts), _CHUNK):
        if context.should_stop():
            dropped[STOPPED] += len(texts) - start
            break
        chunk = texts[start : start + _CHUNK]
        for row, answer in zip(chunk, _answers(chunk, teacher, made_from["teacher"], context), strict=True):
            label = _label(answer, teacher.task)
            if isinstance(label, Soft) and max(label.values) < spec.least_confidence:
                dropped[UNSURE] += 1
            else:
                made.append(replace(row, label=label))
        context.progress(start + len(chunk), len(texts))
    return Made(made, dropped)


def _teacher(context: Context) -> Teacher:
    assert context.teacher is not None  # whoever lets texts be labelled has a teacher
    return context.teacher


def _new_texts(texts: Sequence[Row], rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
    """The texts that are neither in the training rows nor earlier in the file."""
    known = {(row.text, row.text_pair): TRAINED_ON for row in rows}
    new: list[Row] = []
    dropped: Counter[str] = Counter()
    for row in texts:
        key = row.text, row.text_pair
        if key in known:
            dropped[known[key]] += 1
        else:
            known[key] = REPEATED
            new.append(row)
    return new, dropped


def _answers(texts: Sequence[Row], teacher: Teacher, fingerprint: str, context: Context) -> list[list[float]]:
    """The teacher's logits or scores, in the order of the texts."""
    encoded = encode(texts, teacher.tokenizer, teacher.task, teacher.labels, teacher.max_length)
    tokens = hashlib.sha256(encoded.tokens.tobytes() + encoded.segments.tobytes() + encoded.starts.tobytes())
    key = {"version": _VERSION, "teacher": fingerprint, "tokens": tokens.hexdigest()}

    def make() -> list[list[float]]:
        found: list[list[float]] = answers(teacher.model, encoded, context.device).tolist()
        return found

    return remembered(context.cache, key, make)


def _label(answer: Sequence[float], task: Task) -> Label:
    if task == "regression":
        return answer[0]
    outputs = torch.tensor(answer, dtype=torch.float64)
    probabilities = outputs.softmax(0) if task == "single_label" else outputs.sigmoid()
    return Soft(tuple(probabilities.tolist()))


def _fingerprint(teacher: Teacher) -> str:
    """SHA-256 of the weights, and of what else turns tokens into answers."""
    config = teacher.model.config.to_dict()
    config.pop("_name_or_path", None)
    total = hashlib.sha256(digest({name: repr(value) for name, value in config.items()}).encode())
    for name, weight in sorted(teacher.model.state_dict().items()):
        total.update(f"{name} {weight.dtype} {list(weight.shape)}\n".encode())
        total.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def _most(rows: Sequence[Row], spec: Unlabelled, data: DataSpec) -> int:
    return len(_new_texts(read_texts(spec.file, data), rows)[0])


AUGMENTER = Augmenter(_VERSION, _check, _made_from, _make, _most)
