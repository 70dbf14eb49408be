"""The benchmarks' rated texts: both classes, the promised sizes, nothing in two splits."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from benchmarks import materials
from mixkd.contract.data_spec import Split


def read(files: dict[Split, Path]) -> dict[Split, list[dict[str, Any]]]:
    return {split: [json.loads(line) for line in path.open()] for split, path in files.items()}


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        (materials.movie_reviews, {"train": 3999, "validation": 600, "test": 5471}),
        (materials.tweets, {"train": 2410, "validation": 432, "test": 1358}),
    ],
)
def test_the_splits_are_always_the_same_and_share_no_text(files: Any, sizes: dict[Split, int]) -> None:
    found = read(files())
    assert {split: len(rows) for split, rows in found.items()} == sizes
    for one, other in combinations(found.values(), 2):
        assert {row["text"].casefold() for row in one}.isdisjoint(row["text"].casefold() for row in other)


def test_each_half_of_the_film_reviews_is_of_one_class() -> None:
    for rows in read(materials.movie_reviews()).values():
        counts = Counter(row["label"] for row in rows)
        assert counts.keys() == {"negative", "positive"}
        assert max(counts.values()) / len(rows) < 0.51


def test_a_tweet_keeps_its_rating() -> None:
    ratings = {row["text"]: row["label"] for rows in read(materials.tweets()).values() for row in rows}
    assert ratings["LMAO, AMAZING!"] == pytest.approx(2.857142857)
    assert ratings["Ugh. I hate hate hate getting blood drawn."] == pytest.approx(-1.773195876)
    assert -4 <= min(ratings.values()) < -3 < 3 < max(ratings.values()) <= 4


def test_a_repeated_text_has_the_mean_of_its_ratings_and_the_first_line_is_no_text() -> None:
    lines = "id\tsentiment\ttext\n1\t2.0\tGood.\n2\t-1\tBad.\n3\t3.0\t Good. \n\n"
    assert materials.parse_ratings(lines) == {"Good.": 2.5, "Bad.": -1.0}


def test_what_is_rated_close_to_zero_has_no_class() -> None:
    rated = {"a": 0.5, "b": 0.49, "c": -0.49, "d": -0.5, "e": 0.0}
    assert materials.polarity(rated) == {"a": "positive", "d": "negative"}
