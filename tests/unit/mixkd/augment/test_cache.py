"""What is kept comes back as it was; what is damaged is made again; nobody sees half of an entry."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixkd.augment.cache import digest, refuse_unwritable, remembered
from mixkd.contract.problems import RefusedError

VALUES = [["ein\nText", True], 0.1 + 0.2, {"text": "ü \u2028", "label": None}]


def never() -> list[object]:
    raise AssertionError("it was in the cache")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "not" / "there" / "yet"


def test_what_was_made_is_not_made_again(cache):
    assert remembered(cache, {"n": 1}, lambda: VALUES) == VALUES
    assert remembered(cache, {"n": 1}, never) == VALUES


def test_nothing_made_is_remembered_too(cache):
    assert remembered(cache, {"n": 1}, list) == []
    assert remembered(cache, {"n": 1}, never) == []


def test_whatever_decides_the_values_is_looked_at(cache):
    made_from = {"settings": {"beams": 4, "seed": 0}, "texts": "abc"}
    remembered(cache, made_from, lambda: [1])
    for other in (
        {"settings": {"beams": 5, "seed": 0}, "texts": "abc"},
        {"settings": {"beams": 4, "seed": 0}, "texts": "abd"},
        {"settings": {"beams": 4, "seed": 0}},
    ):
        assert remembered(cache, other, lambda: [2]) == [2]
    turned = {"texts": "abc", "settings": {"seed": 0, "beams": 4}}
    assert remembered(cache, turned, never) == [1]


def test_the_key_is_the_same_on_every_machine():
    """A cache is of no use where its keys change from one process or release to the next."""
    canonical = rb'{"a":true,"b":["\u00fc",0.5,null]}'
    assert digest({"b": ["ü", 0.5, None], "a": True}) == hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize("other", ["", "\n", "null\n", "[]\n1\n", '{"made_from":{"n":1}}\n1\n', "\udcff\n"])
def test_an_entry_that_is_none_is_made_again(other, cache):
    remembered(cache, {"n": 1}, lambda: VALUES)
    [path] = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(other.encode("utf-8", "surrogateescape"))
    assert remembered(cache, {"n": 1}, lambda: VALUES) == VALUES
    assert path.read_bytes() == whole


def test_an_entry_under_another_name_is_made_again(cache):
    remembered(cache, {"n": 1}, lambda: ["of 1"])
    [path] = cache.iterdir()
    path.rename(cache / f"{digest({'n': 2})}.jsonl")
    assert remembered(cache, {"n": 2}, lambda: ["of 2"]) == ["of 2"]


@settings(deadline=None)
@given(data=st.data())
def test_no_damage_goes_unnoticed(data, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    remembered(cache, {"n": 1}, lambda: VALUES)
    [path] = cache.iterdir()
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:place]
    else:
        damaged = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    path.write_bytes(damaged)
    assert remembered(cache, {"n": 1}, lambda: VALUES) == VALUES
    assert path.read_bytes() == whole


def test_what_fails_leaves_nothing(cache):
    def fail() -> list[object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remembered(cache, {"n": 1}, fail)
    assert not cache.exists()
    assert remembered(cache, {"n": 1}, lambda: [1]) == [1]


def test_two_processes_may_make_the_same_at_once(cache):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    results = context.SimpleQueue()

    def work() -> None:
        def make() -> list[int]:
            barrier.wait(30)  # neither has found it; now both write it
            return list(range(50_000))

        results.put(sum(remembered(cache, {"n": 1}, make)))

    both = [context.Process(target=work) for _ in range(2)]
    for process in both:
        process.start()
    assert [results.get(), results.get()] == [sum(range(50_000))] * 2
    for process in both:
        process.join()
    assert len(list(cache.iterdir())) == 1
    assert remembered(cache, {"n": 1}, never) == list(range(50_000))


def test_an_entry_can_be_read_with_nothing_but_json(cache):
    remembered(cache, {"n": 1}, lambda: VALUES)
    [path] = cache.iterdir()
    manifest, *values = map(json.loads, path.read_text().splitlines())
    assert manifest["made_from"] == {"n": 1}
    assert values == VALUES


def test_a_folder_in_the_place_of_an_entry_costs_the_entry_only(cache):
    (cache / f"{digest({'n': 1})}.jsonl").mkdir(parents=True)
    assert remembered(cache, {"n": 1}, lambda: VALUES) == VALUES


def test_what_cannot_be_kept_is_still_handed_out_and_refused_before(tmp_path):
    (tmp_path / "file").touch()
    assert remembered(tmp_path / "file" / "cache", {"n": 1}, lambda: VALUES) == VALUES
    with pytest.raises(RefusedError) as caught:
        refuse_unwritable(tmp_path / "file" / "cache")
    assert caught.value.problems[0].field == "MIXKD_CACHE"
    refuse_unwritable(tmp_path / "new" / "cache")
    assert list((tmp_path / "new" / "cache").iterdir()) == []
