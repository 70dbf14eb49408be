"""Forms, turned into requests, and problems put beside their fields."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api.dashboard.forms import beside, nested
from api.dashboard.pages.new_job import FIELDS
from api.schemas.jobs import JobCreate
from core.errors import InvalidInput
from mixkd.contract.problems import Problem
from mixkd.contract.spec import DistilSpec

NAMES = st.from_regex(r"[a-z_]{1,4}", fullmatch=True)
WORDS = st.text(max_size=20).map(lambda text: f"word {text}")  # reads as no number and no list
LISTS = st.lists(WORDS, max_size=3)


def leaves(request: dict, above: str = "") -> dict:
    """A request as a form again."""
    found = {}
    for name, value in request.items():
        place = f"{above}{name}"
        if isinstance(value, dict):
            found |= leaves(value, f"{place}.")
        else:
            found[f"{place}[]" if isinstance(value, list) else place] = value
    return found


REQUESTS = st.recursive(
    st.dictionaries(NAMES, WORDS | LISTS, min_size=1, max_size=3),
    lambda inside: st.dictionaries(NAMES, WORDS | LISTS | inside, min_size=1, max_size=3),
    max_leaves=10,
)


@given(REQUESTS)
def test_a_form_is_the_request_that_its_names_spell(request):
    assert nested(leaves(request), as_json="no such field") == request


@given(REQUESTS, st.data())
def test_what_is_told_in_json_and_what_in_fields_is_put_together(recipe, data):
    """Each part of the recipe on either side makes the same request."""
    names = data.draw(st.sets(st.sampled_from(sorted(recipe))))
    as_json = {name: value for name, value in recipe.items() if name in names}
    as_fields = {name: value for name, value in recipe.items() if name not in names}
    form = {"name": "word", **leaves({"recipe": as_fields}), "recipe": json.dumps(as_json)}
    assert nested(form, as_json="recipe") == {"name": "word", "recipe": recipe}


@given(REQUESTS, st.data())
def test_what_is_told_twice_is_refused_even_if_it_is_the_same(recipe, data):
    form = leaves({"recipe": recipe})
    twice = data.draw(st.sampled_from(sorted(form)))
    inside: object = form[twice]
    for name in reversed(twice.removesuffix("[]").split(".")[1:]):
        inside = {name: inside}
    with pytest.raises(InvalidInput) as refused:
        nested({twice: form[twice], "recipe": json.dumps(inside)}, as_json="recipe")
    [problem] = refused.value.problems
    assert problem.field == "recipe"
    assert twice in problem.problem
    assert problem.remedy


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("3", 3),
        ("1e-1", 0.1),
        ("[0, 2]", [0, 2]),
        ("three", "three"),
        ("1,5", "1,5"),
        ("", ""),
        ("mixkd", "mixkd"),
        ("[" * 100_000, "[" * 100_000),
        ("9" * 5_000, "9" * 5_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_number_is_a_number_within_the_recipe_and_a_name_is_never_one(given, meant):
    assert nested({"recipe.a": given, "name": given}, as_json="recipe") == {
        "recipe": {"a": meant},
        "name": given,
    }


@pytest.mark.parametrize("text", ["{", "", "nothing", "[]", "3", "null", '"{}"', "{'a': 1}", '{"a":' * 9**5])
def test_what_is_no_json_object_is_refused_with_what_to_write(text):
    with pytest.raises(InvalidInput) as refused:
        nested({"recipe": text}, as_json="recipe")
    [problem] = refused.value.problems
    assert (problem.field, problem.remedy) == ("recipe", 'write {"…": …}, or nothing')


# --- problems ------------------------------------------------------------------------------------------

PATHS = st.lists(NAMES | st.integers(0, 9).map(str), min_size=1, max_size=4).map(".".join)


@given(st.lists(PATHS, max_size=8), st.sets(PATHS, max_size=8))
@example(["a.b.c.0", "a.b.cc", "aa", "a"], {"a", "a.b", "a.b.c"})
def test_every_problem_is_shown_once_beside_the_nearest_field(places, fields):
    problems = [Problem(place, f"number {number}") for number, place in enumerate(places)]
    placed = beside(problems, fields)
    assert sorted((p for some in placed.values() for p in some), key=problems.index) == problems
    for field, some in placed.items():
        for problem in some:
            around = [one for one in fields if f"{problem.field}.".startswith(f"{one}.")]
            assert field == max(around, key=len, default="")


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ("recipe.student.layers", "recipe.student.layers"),
        ("recipe.student.layers.0", "recipe.student.layers"),
        ("recipe.student.layer", "recipe"),
        ("recipe.student", "recipe"),
        ("recipe.baselines.1", "recipe.baselines[]"),
        ("recipe.baselines", "recipe.baselines[]"),
        ("recipes", ""),
        ("resources", ""),
        ("resources.device", "resources.device"),
        ("Idempotency-Key", ""),
        ("", ""),
    ],
)
def test_of_the_form_for_a_new_job(place, field):
    assert list(beside([Problem(place, "bad")], FIELDS)) == [field]


def test_the_forms_fields_are_the_requests_own():
    """A field that the API does not know would be refused whatever is in it."""
    for name in FIELDS:
        model = JobCreate
        *parents, last = name.removesuffix("[]").split(".")
        for parent in parents:
            model = model.model_fields[parent].annotation
        assert last in model.model_fields, name
        as_list = re.search(r"\b(list|tuple)\[", str(model.model_fields[last].annotation)) is not None
        assert not name.endswith("[]") or as_list, name
    assert "recipe" in FIELDS
    assert JobCreate.model_fields["recipe"].annotation is DistilSpec
