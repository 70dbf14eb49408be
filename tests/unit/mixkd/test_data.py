"""Reading, setting aside and tokenising rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Row
from mixkd.data import carve, encode, read_splits
from mixkd.teacher import load_tokenizer

rows = st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=60).map(
    lambda texts: [Row(n + 1, text, None, "a") for n, text in enumerate(texts)]
)


@given(rows)
def test_no_text_is_on_both_sides_and_no_row_is_lost(rows: list[Row]) -> None:
    if len({row.text for row in rows}) == 1:
        with pytest.raises(RefusedError, match="same text"):
            carve(rows)
        return
    kept, aside = carve(rows)
    assert kept
    assert aside
    assert not {row.text for row in kept} & {row.text for row in aside}
    assert sorted([*kept, *aside], key=lambda row: row.line) == rows


def test_about_a_tenth_is_set_aside_and_other_rows_do_not_change_which() -> None:
    rows = [Row(n, f"text {n}", None, "a") for n in range(2000)]
    kept, aside = carve(rows)
    assert len(aside) == pytest.approx(200, abs=50)
    fewer_kept, _ = carve(rows[:1000])
    assert set(fewer_kept) <= set(kept)


def test_a_missing_test_file_means_the_validation_rows_and_is_said(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {n}", "label": "ab"[n % 2]}) for n in range(50)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    splits, used = read_splits(DataSpec(files={"train": tmp_path / "train.jsonl"}))
    assert splits["test"] == splits["validation"]
    assert (used.validation_from, used.test_from) == ("train", "validation")
    assert used.train + used.validation == 50
    assert used.train == len(splits["train"])


def test_rows_become_tokens_segments_and_the_models_own_label_numbers(encoder_folder: Path) -> None:
    tokenizer = load_tokenizer(encoder_folder)
    rows = [Row(1, "red word1", "blue", "x"), Row(2, "green", "word2 word3 word4", "y")]
    coded = encode(rows, tokenizer, {"x": 7, "y": 3}, max_length=6)
    assert coded.labels.tolist() == [7, 3]
    assert coded.lengths.tolist() == [6, 6]  # the second was cut
    first = slice(coded.starts[0], coded.starts[1])
    assert tokenizer.convert_ids_to_tokens(coded.tokens[first].tolist()) == [
        "[CLS]", "red", "word1", "[SEP]", "blue", "[SEP]"
    ]  # fmt: skip
    assert coded.segments[first].tolist() == [0, 0, 0, 0, 1, 1]


def test_a_tokeniser_file_that_asks_for_padding_does_not_get_it(encoder_folder: Path) -> None:
    """sentence-transformers' tokenizer.json pads everything to 128 tokens: masked-out tokens, full price."""
    tokenizer = load_tokenizer(encoder_folder)
    tokenizer.backend_tokenizer.enable_padding(length=32)
    coded = encode([Row(1, "red", None, "x")] * 3, tokenizer, {"x": 0}, max_length=16)
    assert coded.lengths.tolist() == [3, 3, 3]
    assert coded.tokens.dtype == np.int32


def test_a_label_that_the_model_does_not_know_is_refused_with_its_line(encoder_folder: Path) -> None:
    with pytest.raises(RefusedError, match="line 9"):
        encode([Row(9, "red", None, "strange")], load_tokenizer(encoder_folder), {"x": 0}, max_length=16)
