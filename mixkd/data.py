"""Labelled texts, read and tokenised once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from mixkd.contract.data_spec import DataSpec, Split
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.rows import Row, read_rows
from mixkd.contract.strict import Strict

CARVED_SHARE = 0.1
_CHUNK = 1000  # texts a call of the tokeniser: between two calls a signal is heard


class SplitsUsed(Strict):
    """Where the rows of each split came from, and how many they are."""

    train: int
    validation: int
    test: int
    validation_from: Literal["file", "train"]
    test_from: Literal["file", "validation"]


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


def read_splits(data: DataSpec) -> tuple[dict[Split, list[Row]], SplitsUsed]:
    """The rows of all three splits.

    Without a validation file about a tenth of the training rows is set aside for it. Without a test file the
    validation rows are the test too, which flatters: the best epoch was chosen on them.

    Raises:
        RefusedError: a file cannot be read, a row is bad, or nothing can be set aside.
    """
    rows = {
        split: list(read_rows(path, data.format, data.columns, f"files.{split}"))
        for split, path in data.files.items()
    }
    if "validation" not in data.files:
        rows["train"], rows["validation"] = carve(rows["train"])
    rows.setdefault("test", rows["validation"])
    used = SplitsUsed(
        train=len(rows["train"]),
        validation=len(rows["validation"]),
        test=len(rows["test"]),
        validation_from="file" if "validation" in data.files else "train",
        test_from="file" if "test" in data.files else "validation",
    )
    return rows, used


def carve(rows: Sequence[Row], share: float = CARVED_SHARE) -> tuple[list[Row], list[Row]]:
    """Split rows in two by a hash of their text: `(kept, set aside)`, each with at least one text.

    The same text always falls on the same side, however often it is repeated.

    Raises:
        RefusedError: all rows have the same text.
    """
    places = [_place(row) for row in rows]
    distinct = sorted(set(places))
    if len(distinct) < 2:
        raise RefusedError(
            Problem("files.validation", "nothing can be set aside for it: all rows have the same text",
                    None, "add a validation file")
        )  # fmt: skip
    limit = min(max(share, distinct[1]), distinct[-1])  # at least the first text, never the last one
    kept = [row for row, place in zip(rows, places, strict=True) if place >= limit]
    aside = [row for row, place in zip(rows, places, strict=True) if place < limit]
    return kept, aside


def _place(row: Row) -> float:
    """Where a row falls in [0, 1), by its text alone."""
    both = f"{row.text}\0{row.text_pair or ''}"
    return int.from_bytes(hashlib.sha256(both.encode()).digest()[:6], "big") / 2**48


def encode(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    label_ids: Mapping[str, int],
    max_length: int,
) -> Encoded:
    """Tokenise rows, cut at `max_length` tokens, with labels as the model's numbers.

    Raises:
        RefusedError: a label is not among `label_ids`.
    """
    lengths, tokens, segments = [0], [], []
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        pairs = [row.text_pair or "" for row in chunk] if chunk[0].text_pair is not None else None
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
        tokens.append(np.concatenate(coded["input_ids"], dtype=np.int32))
        segments.append(np.concatenate(coded["token_type_ids"], dtype=np.uint8, casting="unsafe"))
    return Encoded(
        np.concatenate(tokens),
        np.concatenate(segments),
        np.cumsum(lengths, dtype=np.int64),
        np.array([_label_id(row, label_ids) for row in rows], dtype=np.int64),
    )


def _label_id(row: Row, label_ids: Mapping[str, int]) -> int:
    try:
        return label_ids[row.label]
    except KeyError:
        raise RefusedError(
            Problem("columns.label", f"line {row.line}: the teacher does not know this label", row.label,
                    "correct it, or set `recipe.teach.when` to `always`")
        ) from None  # fmt: skip
