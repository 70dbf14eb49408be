"""Labelled texts, read and tokenised once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from mixkd.contract.data_spec import DataSpec, SetName, Task
from mixkd.contract.problems import Problem, RefusedError, listed
from mixkd.contract.rows import CARVED_SHARE, Row, Soft, read_rows
from mixkd.contract.spec import DistilSpec
from mixkd.contract.strict import Strict
from mixkd.randomness import generator

_CHUNK = 1000  # texts a call of the tokeniser: between two calls a signal is heard


class SetsUsed(Strict):
    """Which rows a run works on. `train_of` counts the training rows before `train_examples` limits them.

    `judged_on` is the set that the report's headline numbers come from. Without a test set it is the
    validation set, which flatters: the best evaluation was chosen on it.
    """

    rows: dict[SetName, int]
    train_of: int
    validation_from: Literal["file", "train"]
    judged_on: SetName


@dataclass(frozen=True)
class Encoded:
    """N tokenised rows in flat arrays: a Python list a row would cost far more than its tokens."""

    tokens: NDArray[np.int32]  # (sum of all lengths,)
    segments: NDArray[np.uint8]  # (sum of all lengths,)
    starts: NDArray[np.int64]  # (N + 1,): row i lies at starts[i]:starts[i + 1]
    targets: NDArray[np.int64] | NDArray[np.float32]  # (N,) class numbers, or (N, C) as in `targets_of`
    outputs: int  # C: classes, labels, or 1 for a score
    pad_id: int

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, (N,)."""
        return np.diff(self.starts)

    def targets_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Probabilities, zeros and ones of a multi-label task, or scores: (len(rows), C)."""
        chosen = self.targets[rows]
        if chosen.ndim == 2:
            return chosen.astype(np.float32)
        one_hot = np.zeros((len(rows), self.outputs), dtype=np.float32)
        one_hot[np.arange(len(rows)), chosen] = 1
        return one_hot


def take(encoded: Encoded, chosen: NDArray[np.int64]) -> Encoded:
    """Some of the rows, in this order."""
    lengths = encoded.lengths[chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.arange(starts[-1]) + np.repeat(encoded.starts[chosen] - starts[:-1], lengths)
    return replace(
        encoded,
        tokens=encoded.tokens[flat],
        segments=encoded.segments[flat],
        starts=starts,
        targets=encoded.targets[chosen],
    )


# -- the sets --------------------------------------------------------------------------------------------


def read_sets(data: DataSpec, recipe: DistilSpec) -> tuple[dict[SetName, list[Row]], SetsUsed]:
    """The rows of every set; `train` and `validation` are always there.

    Without a validation file about a tenth of the training rows is set aside for it. After that
    `train_examples` or `train_fraction` limits the training rows.

    Raises:
        RefusedError: a file cannot be read, a row is bad, nothing can be set aside, or there are fewer
            training rows than asked for.
    """
    rows = {name: list(read_rows(path, data, f"files.{name}")) for name, path in data.files.items()}
    if "validation" not in data.files:
        rows["train"], rows["validation"] = carve(rows["train"], recipe.seed)
    train_of = len(rows["train"])
    if (wanted := _wanted(recipe, train_of)) is not None:
        rows["train"] = sample(rows["train"], wanted, recipe.seed)
    used = SetsUsed(
        rows={name: len(some) for name, some in rows.items()},
        train_of=train_of,
        validation_from="file" if "validation" in data.files else "train",
        judged_on="test" if "test" in data.files else "validation",
    )
    return rows, used


def read_texts(path: Path, data: DataSpec) -> list[Row]:
    """The texts of a file of the data's format, in order, without labels: only text columns are looked at.

    Raises:
        RefusedError: field `file`; it cannot be read, a row is bad, or there is none.
    """
    rows = list(read_rows(path, data, "file", labelled=False))
    if not rows:
        raise RefusedError(Problem("file", "there is no row in it", path.name, "name a file with texts"))
    return rows


def carve(rows: Sequence[Row], seed: int, share: float = CARVED_SHARE) -> tuple[list[Row], list[Row]]:
    """Split rows in two, `(kept, set aside)`, each with at least one text; both keep the rows' order.

    Stratified: the same share of each label's texts, of each set of labels, or of each range of scores, is
    set aside, but never a label's last text while another can go. Rows with one text stay together.

    Raises:
        RefusedError: all rows have the same text.
    """
    texts: dict[tuple[str, str | None], Row] = {}  # the first row of each
    for row in rows:
        texts.setdefault((row.text, row.text_pair), row)
    if len(texts) < 2:
        raise RefusedError(
            Problem("files.validation", "nothing can be set aside for it: all rows have the same text",
                    None, "add a validation file")
        )  # fmt: skip
    rng = generator(seed, "carve")
    first = list(texts.values())
    needed, others = _one_of_each(first, rng)
    free = others or needed[1:]
    chosen = _spread(free, min(max(round(share * len(first)), 1), len(free)), rng)
    aside = {(first[index].text, first[index].text_pair) for index in chosen}
    kept = [row for row in rows if (row.text, row.text_pair) not in aside]
    return kept, [row for row in rows if (row.text, row.text_pair) in aside]


def sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Draw rows with the labels' shares kept, and where it can be at least one of each label; in order.

    Raises:
        RefusedError: there are fewer rows.
    """
    if count > len(rows):
        raise RefusedError(
            Problem("recipe.train_examples", f"there are {len(rows)} training rows", count,
                    f"choose 2 to {len(rows)}")
        )  # fmt: skip
    rng = generator(seed, "train_examples")
    needed, others = _one_of_each(rows, rng)
    if len(needed) > count:
        needed, others = [], _in_strata(rows, rng)
    return [rows[index] for index in sorted(needed + _spread(others, count - len(needed), rng))]


def _wanted(recipe: DistilSpec, available: int) -> int | None:
    if recipe.train_fraction is not None:
        return min(max(round(recipe.train_fraction * available), 2), available)
    return recipe.train_examples


def _one_of_each(rows: Sequence[Row], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Indices of rows that together have every label, and all others, by stratum."""
    needed: list[int] = []
    others: list[int] = []
    seen: set[str] = set()
    for index in _in_strata(rows, rng):
        there = _labels(rows[index])
        (others if seen.issuperset(there) else needed).append(index)
        seen.update(there)
    return needed, others


def _in_strata(rows: Sequence[Row], rng: np.random.Generator) -> list[int]:
    """Indices of rows that are alike next to each other, in random order where they are equal."""
    shuffled = rng.permutation(len(rows)).tolist()
    return sorted(shuffled, key=lambda index: _stratum(rows[index]))


def _stratum(row: Row) -> tuple[float, tuple[str, ...]]:
    if isinstance(row.label, float):
        return row.label, ()
    return 0.0, tuple(sorted(_labels(row)))


def _labels(row: Row) -> tuple[str, ...]:
    if isinstance(row.label, str):
        return (row.label,)
    return row.label if isinstance(row.label, tuple) else ()


def _spread(indices: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """Every n-th, from a random start: `count` of them, as many of each stretch as its share (systematic
    sampling, Madow 1949)."""
    places = (np.arange(count) + rng.random()) * len(indices) / max(count, 1)
    return [indices[place] for place in places.astype(int)]


# -- tokens ----------------------------------------------------------------------------------------------


def encode(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    labels: Sequence[str],
    max_length: int,
) -> Encoded:
    """Tokenise rows, at least one, cut at `max_length` tokens.

    Args:
        labels: in the order of the model's outputs; not looked at for a regression.

    Raises:
        RefusedError: a label is not among `labels`, a text has no token, or there is none to pad with.
    """
    if tokenizer.pad_token_id is None:
        raise RefusedError(
            Problem("tokenizer", "it has no padding token", None, "add `pad_token` to tokenizer_config.json")
        )
    paired = rows[0].text_pair is not None
    if odd := [row.line for row in rows if (row.text_pair is not None) != paired]:
        raise RefusedError(
            Problem("columns.text_pair", f"line {odd[0]}: some rows are pairs, and some are not")
        )
    lengths, tokens, segments = [0], [], []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        pairs = [row.text_pair or "" for row in chunk] if paired else None
        coded = tokenizer(
            [row.text for row in chunk],
            pairs,
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=True,
        )
        lengths += [len(ids) for ids in coded["input_ids"]]
        tokens.append(np.concatenate(coded["input_ids"], dtype=np.int32, casting="unsafe"))
        segments.append(np.concatenate(coded["token_type_ids"], dtype=np.uint8, casting="unsafe"))
    if 0 in lengths[1:]:
        line = rows[lengths.index(0, 1) - 1].line
        raise RefusedError(Problem("columns.text", f"line {line}: the tokeniser makes no token of this text"))
    return Encoded(
        tokens=np.concatenate(tokens),
        segments=np.concatenate(segments),
        starts=np.cumsum(lengths, dtype=np.int64),
        targets=_targets(rows, task, labels),
        outputs=1 if task == "regression" else len(labels),
        pad_id=int(tokenizer.pad_token_id),
    )


def _targets(
    rows: Sequence[Row], task: Task, labels: Sequence[str]
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Class numbers (N,) where every row has one; else (N, C), of a row without label zeros."""
    numbers = {label: number for number, label in enumerate(labels)}
    if task == "single_label" and all(isinstance(row.label, str) for row in rows):
        return np.array([_number(row, row.label, numbers) for row in rows], dtype=np.int64)
    targets = np.zeros((len(rows), 1 if task == "regression" else len(labels)), dtype=np.float32)
    for target, row in zip(targets, rows, strict=True):
        if isinstance(row.label, Soft):
            target[:] = row.label.values
        elif isinstance(row.label, float):
            target[0] = row.label
        else:
            target[[_number(row, label, numbers) for label in _labels(row)]] = 1
    return targets


def _number(row: Row, label: object, numbers: dict[str, int]) -> int:
    if isinstance(label, str) and label in numbers:
        return numbers[label]
    raise RefusedError(
        Problem("columns.label", f"line {row.line}: the model does not know the label {label!r}; "
                f"it has {listed(list(numbers))}", label,
                "correct it, or set `recipe.teach.when` to `always`")
    )  # fmt: skip
