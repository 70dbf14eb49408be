"""Reading sets, setting validation rows aside, limiting the training rows, and tokenising."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizer, PreTrainedTokenizerBase

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import RefusedError
from mixkd.contract.rows import Label, Row, Soft
from mixkd.contract.spec import DistilSpec
from mixkd.data import Encoded, carve, encode, read_sets, read_texts, sample
from mixkd.teacher import load_tokenizer

labels: dict[str, st.SearchStrategy[Label]] = {
    "single_label": st.sampled_from("abc"),
    "multi_label": st.lists(st.sampled_from("abc"), unique=True).map(tuple),
    "regression": st.floats(-5, 5),
}


@st.composite
def some_rows(draw: st.DrawFn, least: int = 2) -> list[Row]:
    label = labels[draw(st.sampled_from(sorted(labels)))]
    text = st.text(min_size=1, max_size=2)
    made = draw(st.lists(st.tuples(text, st.none() | text, label), min_size=least, max_size=60))
    return [Row(number + 1, *parts) for number, parts in enumerate(made)]


def of_labels(counts: dict[str, int]) -> list[Row]:
    """Different texts, the labels taking turns as long as they have any left."""
    left = [(n / count, label) for label, count in counts.items() for n in range(count)]
    return [Row(n + 1, f"text {n}", None, label) for n, (_, label) in enumerate(sorted(left))]


def counts(rows: list[Row]) -> Counter[object]:
    return Counter(row.label for row in rows)


def texts(rows: list[Row]) -> set[tuple[str, str | None]]:
    return {(row.text, row.text_pair) for row in rows}


# -- setting rows aside ----------------------------------------------------------------------------------


@given(rows=some_rows(), seed=st.integers(0, 2**32 - 1))
def test_no_text_is_on_both_sides_and_no_row_is_lost(rows: list[Row], seed: int) -> None:
    if len(texts(rows)) == 1:
        with pytest.raises(RefusedError, match="same text"):
            carve(rows, seed)
        return
    kept, aside = carve(rows, seed)
    assert kept
    assert aside
    assert not texts(kept) & texts(aside)
    assert sorted([*kept, *aside], key=lambda row: row.line) == rows
    assert (kept, aside) == carve(rows, seed)


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_every_label_is_set_aside(seed: int) -> None:
    _, aside = carve(of_labels({"a": 1000, "b": 100, "c": 20}), seed)
    assert counts(aside) == {"a": pytest.approx(100, abs=1), "b": pytest.approx(10, abs=1), "c": 2}


def test_the_last_text_of_a_label_stays_in_training() -> None:
    rare = [f"rare {n}" for n in range(20)]
    _, aside = carve(of_labels({"a": 30, **dict.fromkeys(rare, 1)}), 0)
    assert counts(aside) == {"a": 5}
    kept, aside = carve(of_labels(dict.fromkeys(rare, 1)), 0)  # if every one is the last, some have to go
    assert (len(kept), len(aside)) == (18, 2)


def test_a_tenth_of_every_range_of_scores_is_set_aside() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(np.concatenate([rng.normal(size=900), rng.normal(50, size=100)])).tolist()
    _, aside = carve([Row(n + 1, f"text {n}", None, score) for n, score in enumerate(scores)], 0)
    picked = [row.label for row in aside if isinstance(row.label, float)]
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.95):
        assert np.mean(picked <= np.quantile(scores, quantile)) == pytest.approx(quantile, abs=0.011)


def test_a_tenth_of_every_set_of_labels_is_set_aside() -> None:
    sets: list[Label] = [("a",), ("b", "a"), (), ("a", "b")]
    rows = [Row(n + 1, f"text {n}", None, sets[n % 4]) for n in range(400)]
    _, aside = carve(rows, 0)
    assert sum(row.label == () for row in aside) == pytest.approx(10, abs=1)
    assert sum(len(row.label) == 2 for row in aside if isinstance(row.label, tuple)) == pytest.approx(
        20, abs=1
    )


def test_the_seed_decides_which_rows_are_set_aside() -> None:
    rows = of_labels({"a": 50, "b": 50})
    different = {tuple(row.line for row in carve(rows, seed)[1]) for seed in range(40)}
    assert len(different) == 40
    scores = [Row(n + 1, f"text {n}", None, float(n)) for n in range(100)]  # each is its own stratum
    assert carve(scores, 1) != carve(scores, 2)


# -- limiting the training rows --------------------------------------------------------------------------


@given(rows=some_rows(), data=st.data())
def test_a_sample_has_the_size_asked_for_and_what_labels_it_can(rows: list[Row], data: st.DataObject) -> None:
    count = data.draw(st.integers(2, len(rows)))
    drawn = sample(rows, count, 0)
    assert len(drawn) == count
    assert [row for row in rows if row in drawn] == drawn  # in the same order, none twice
    names = {name for row in rows for name in names_of(row)}
    if len(names) <= count:
        assert {name for row in drawn for name in names_of(row)} == names


def names_of(row: Row) -> tuple[str, ...]:
    if isinstance(row.label, tuple):
        return row.label
    return (row.label,) if isinstance(row.label, str) else ()


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_keeps_the_shares_of_the_labels(seed: int) -> None:
    drawn = sample(of_labels({"a": 600, "b": 300, "c": 100}), 50, seed)
    assert counts(drawn) == {
        "a": pytest.approx(30, abs=1),
        "b": pytest.approx(15, abs=1),
        "c": pytest.approx(5, abs=1),
    }


def test_more_rows_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(RefusedError, match=r"^recipe\.train_examples: there are 20"):
        sample(of_labels({"a": 10, "b": 10}), 21, 0)


# -- sets ------------------------------------------------------------------------------------------------


def write(path: Path, rows: int, first: int = 0) -> Path:
    lines = (json.dumps({"text": f"text {n}", "label": "ab"[n % 2]}) for n in range(first, first + rows))
    path.write_text("\n".join(lines))
    return path


def test_without_a_validation_file_rows_of_training_are_set_aside_and_it_is_said(tmp_path: Path) -> None:
    data = DataSpec(files={"train": write(tmp_path / "train", 50)})
    sets, used = read_sets(data, DistilSpec())
    assert used.model_dump() == {
        "rows": {"train": 45, "validation": 5},
        "train_of": 45,
        "validation_from": "train",
        "judged_on": "validation",
    }
    assert {name: len(rows) for name, rows in sets.items()} == used.rows
    assert read_sets(data, DistilSpec(seed=1))[0] != sets


def test_files_are_used_as_they_are_and_a_test_set_judges(tmp_path: Path) -> None:
    names = ("train", "validation", "test", "hard")
    files = {name: write(tmp_path / name, 10, 10 * n) for n, name in enumerate(names)}
    sets, used = read_sets(DataSpec(files=files), DistilSpec())
    assert {name: rows[0].text for name, rows in sets.items()} == {
        "train": "text 0", "validation": "text 10", "test": "text 20", "hard": "text 30"
    }  # fmt: skip
    assert (used.validation_from, used.judged_on) == ("file", "test")


@pytest.mark.parametrize(
    ("limit", "rows"),
    [
        ({"train_examples": 9}, 9),
        ({"train_fraction": 0.1}, 4),
        ({"train_fraction": 0.001}, 2),
        ({"train_fraction": 1}, 45),
    ],
)
def test_the_limit_is_of_the_rows_that_are_left_for_training(
    tmp_path: Path, limit: dict[str, Any], rows: int
) -> None:
    data = DataSpec(files={"train": write(tmp_path / "train", 50)})
    sets, used = read_sets(data, DistilSpec(**limit))
    assert (len(sets["train"]), used.rows["train"], used.train_of) == (rows, rows, 45)
    assert sets["validation"] == read_sets(data, DistilSpec())[0]["validation"]
    assert len(counts(sets["train"])) == 2


def test_texts_are_read_without_labels(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("id,body\n1,one\n2,two\n")
    data = DataSpec.model_validate({"files": {}, "format": "csv", "columns": {"text": "body"}})
    assert read_texts(tmp_path / "texts.csv", data) == [Row(2, "one", None, None), Row(3, "two", None, None)]
    (tmp_path / "texts.csv").write_text("id,body\n")
    with pytest.raises(RefusedError, match="there is no row in it"):
        read_texts(tmp_path / "texts.csv", data)


# -- tokens ----------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(encoder_folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(encoder_folder)


def targets(rows: list[Row], tokenizer: PreTrainedTokenizerBase, *task: Any) -> Encoded:
    return encode(rows, tokenizer, *task, max_length=16)


def labelled(*labels: Label | None) -> list[Row]:
    return [Row(number + 1, "red", None, label) for number, label in enumerate(labels)]


def test_rows_become_tokens_segments_and_the_models_own_label_numbers(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = [Row(1, "red word1", "blue", "x"), Row(2, "green", "word2 word3 word4", "y")]
    coded = encode(rows, tokenizer, "single_label", ["z", "y", "x"], max_length=6)
    assert coded.targets.tolist() == [2, 1]
    assert (coded.targets.dtype, coded.outputs, coded.pad_id) == (np.int64, 3, tokenizer.pad_token_id)
    assert coded.lengths.tolist() == [6, 6]  # the second was cut
    first = slice(coded.starts[0], coded.starts[1])
    assert tokenizer.convert_ids_to_tokens(coded.tokens[first].tolist()) == [
        "[CLS]", "red", "word1", "[SEP]", "blue", "[SEP]"
    ]  # fmt: skip
    assert coded.segments[first].tolist() == [0, 0, 0, 0, 1, 1]
    assert coded.targets_of(np.array([1, 0])).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_the_same_rows_in_more_than_one_call_of_the_tokeniser(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(n + 1, "red " * (n + 1), None, "xy"[n % 2]) for n in range(7)]
    whole = encode(rows, tokenizer, "single_label", ["x", "y"], max_length=16)
    monkeypatch.setattr("mixkd.data._CHUNK", 3)
    parts = encode(rows, tokenizer, "single_label", ["x", "y"], max_length=16)
    for name in ("tokens", "segments", "starts", "targets"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name)), name


def test_targets_of_several_labels_are_zeros_and_ones(tokenizer: PreTrainedTokenizerBase) -> None:
    coded = targets(labelled(("z", "x"), ()), tokenizer, "multi_label", ["x", "y", "z"])
    assert coded.targets.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert (coded.targets.dtype, coded.outputs) == (np.float32, 3)


def test_the_target_of_a_regression_is_its_score(tokenizer: PreTrainedTokenizerBase) -> None:
    coded = targets(labelled(2.5, -1.0), tokenizer, "regression", ["score"])
    assert coded.targets.tolist() == [[2.5], [-1.0]]
    assert (coded.targets.dtype, coded.outputs) == (np.float32, 1)


def test_soft_labels_stand_beside_hard_ones(tokenizer: PreTrainedTokenizerBase) -> None:
    coded = targets(labelled("y", Soft((0.25, 0.75))), tokenizer, "single_label", ["x", "y"])
    assert coded.targets.tolist() == [[0, 1], [0.25, 0.75]]
    assert coded.targets_of(np.array([1])).tolist() == [[0.25, 0.75]]
    soft_score = targets(labelled(1.0, Soft((2.0,))), tokenizer, "regression", [])
    assert soft_score.targets.tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_a_text_without_a_label_is_encoded_too(tokenizer: PreTrainedTokenizerBase, task: str) -> None:
    assert len(targets(labelled(None, None), tokenizer, task, ["x", "y"])) == 2


@pytest.mark.parametrize(("task", "label"), [("single_label", "strange"), ("multi_label", ("x", "strange"))])
def test_a_label_that_the_model_does_not_know_is_refused_with_its_line(
    tokenizer: PreTrainedTokenizerBase, task: str, label: Label
) -> None:
    with pytest.raises(RefusedError, match=r"line 9: .*'strange'; it has 'x'"):
        targets([Row(9, "red", None, label)], tokenizer, task, ["x"])


def test_a_tokeniser_file_that_asks_for_padding_does_not_get_it(tokenizer: PreTrainedTokenizerBase) -> None:
    """sentence-transformers' tokenizer.json pads everything to 128 tokens: masked-out tokens, full price."""
    tokenizer.backend_tokenizer.enable_padding(length=32)  # type: ignore[attr-defined]  # of the fast ones
    coded = targets(labelled("x", "x", "x"), tokenizer, "single_label", ["x"])
    assert coded.lengths.tolist() == [3, 3, 3]
    assert coded.tokens.dtype == np.int32


def test_a_tokeniser_that_gives_no_segments_by_itself(encoder_folder: Path) -> None:
    """As those of DistilBERT, RoBERTa and ModernBERT."""
    tokenizer = BertTokenizer.from_pretrained(encoder_folder, model_input_names=["input_ids"])
    coded = targets([Row(1, "red", "blue", "x")], tokenizer, "single_label", ["x"])
    assert len(coded.segments) == len(coded.tokens) == 5


def test_a_text_of_which_no_token_is_left_is_refused_with_its_line(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Without special tokens there would be nothing that a model could attend to."""
    tokenizer.backend_tokenizer.post_processor = None  # type: ignore[attr-defined]  # of the fast ones
    with pytest.raises(RefusedError, match="line 2"):
        targets([Row(1, "red", None, "x"), Row(2, "\u200b", None, "x")], tokenizer, "single_label", ["x"])
