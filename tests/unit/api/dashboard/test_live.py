"""How far a reader has come, as text that goes to a browser and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dashboard.live import Seen
from api.schemas.jobs import MOST_STEPS
from core import paging

ELSE = Seen(7, "else")
PLACES = st.builds(
    lambda phase, step: paging.encode(f"{phase}.{step}"), st.integers(0, 9), st.integers(0, MOST_STEPS)
)


@given(st.integers(0, 10**15 - 1), PLACES | st.just(""))
def test_it_comes_back_as_it_went(event, metric):
    seen = Seen(event, metric)
    assert Seen.of(str(seen), ELSE) == seen
    assert str(seen).isprintable()
    assert len(str(seen).splitlines()) == 1, "else it would not be one line of the stream"


@given(st.text())
def test_whatever_comes_is_ours_or_says_nothing(text):
    seen = Seen.of(text, ELSE)
    assert seen is ELSE or (str(seen) == text or text.startswith("0"))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        ".",
        "1",
        "-1.",
        "1.a.b",
        "1.a b",
        "1.a\n",
        "\n1.a",
        "١.",
        "1.é",
        f"1.{'a' * 61}",
        "9" * 16 + ".",
    ],
)
def test_what_is_not_ours_says_nothing(text):
    assert Seen.of(text, ELSE) is ELSE
