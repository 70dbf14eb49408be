"""Numbers, times and sizes as people read them, at the borders; and text that cannot become markup."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.dashboard import render


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (3599.4, "59 min"),
        (3599.6, "1 h"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations(seconds, shown):
    assert render.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "just now"),  # clocks differ
        (0, "just now"),
        (59, "just now"),
        (61, "1 min ago"),
        (3599, "59 min ago"),
        (3601, "1 h ago"),
        (48 * 3600 - 60, "47 h ago"),
        (48 * 3600 + 1, "2 d ago"),
    ],
)
def test_how_long_ago(seconds, shown):
    assert render.ago(datetime.now(UTC) - timedelta(seconds=seconds)) == shown


def test_moments_are_in_utc():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5)))
    assert render.when(moment) == "2026-01-01 22:04:05 UTC"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1e6, "1.0 MB"),
        (66_312_345, "66.3 MB"),
        (999_999_999, "1.0 GB"),
        (1e12, "1.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(number, shown):
    assert render.size(number) == shown


@given(st.integers(0, 10**15))
def test_a_size_keeps_its_order_and_at_most_a_half_of_its_last_digit(number):
    value, unit = render.size(number).split()
    scale = 1000 ** ["B", "kB", "MB", "GB", "TB"].index(unit)
    assert abs(float(value) * scale - number) <= 0.0501 * scale
    assert float(value) < 1000 or unit == "TB"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (950, "950"), (12_400, "12,400"), (310.5, "310"), (999_999, "999,999"), (1e6, "1.0 M")],
)
def test_counts(number, shown):
    assert render.count(number) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0, "0.000"), (0.9876, "0.988"), (-0.5, "-0.500")])
def test_scores(value, shown):
    assert render.score(value) == shown


def test_factors():
    assert [render.times(ratio) for ratio in (1, 2.06, 12.34)] == ["1.0×", "2.1×", "12.3×"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("it is bad", "It is bad."),
        ("It is bad.", "It is bad."),
        ("is it bad?", "Is it bad?"),
        ("`gpus` is bad", "`gpus` is bad."),
        ("max_length is bad", "max_length is bad."),
        ("3 rows are bad", "3 rows are bad."),
        ("ärger", "Ärger."),
        ("bad", "Bad."),
    ],
)
def test_sentences(text, shown):
    assert render.sentence(text) == shown


@given(st.text())
def test_a_sentence_says_what_was_said_and_said_again_stays_as_it_is(text):
    once = render.sentence(text)
    assert text[1:] in once
    assert render.sentence(once) == once


def test_the_address_of_a_file_changes_with_it_and_only_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(render, "STATIC", tmp_path)
    addresses = []
    for content in (b"a", b"b", b"a"):
        (tmp_path / "x.js").write_bytes(content)
        render.static.cache_clear()
        addresses.append(render.static("x.js"))
    render.static.cache_clear()
    assert addresses[0] == addresses[2] != addresses[1]
    assert re.fullmatch(r"/static/x\.js\?v=[0-9a-f]{12}", addresses[0])


@given(st.text(alphabet="<>&\"'`={}%#/ ax"))
def test_what_is_put_into_a_page_is_text(text):
    problem = {"title": text, "detail": "", "errors": []}
    shown = render.html("_problem.html", problem=problem)
    inside = re.search(r"<strong>(.*?)</strong>", shown, re.DOTALL)[1]
    assert not set(inside) & set("<>\"'")
    assert shown.count("<") == render.html("_problem.html", problem={**problem, "title": ""}).count("<")
