"""The form for a new job: it makes what the API would, once, and says beside each field what is wrong."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import func, select

from core.jobs.models import Job
from tests.support.pages import Element, fields, read

MADE = ("id", "queue_position", "created_at", "queued_at", "name", "deadline_at")


@pytest.fixture
def made(sessions):
    """How many jobs there are."""

    def count() -> int:
        with sessions() as session:
            return session.scalar(select(func.count()).select_from(Job)) or 0

    return count


@pytest.fixture
def filled(browser, request_body) -> dict:
    """The form as it comes, with the teacher and the data set chosen."""
    sent = fields(read(browser.get("/jobs/new").text).one(id="new-job"))
    return sent | {name: request_body[name] for name in ("teacher_id", "dataset_id")}


def beside(page: Element, field: str) -> str:
    """What is said beside a field."""
    return page.one(id=f"{field}-more").words


def job_of(answer: httpx.Response) -> str:
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"].removeprefix("/jobs/")


# --- what it makes -------------------------------------------------------------------------------------


def test_untouched_it_makes_the_job_that_the_api_makes_of_nothing_but_two_ids(api, browser, filled):
    by_form = api.get(f"/v1/jobs/{job_of(browser.post('/jobs/new', data=filled))}").json()
    ids = {name: filled[name] for name in ("teacher_id", "dataset_id")}
    by_api = api.post("/v1/jobs", json=ids).json()
    for name in set(MADE) - {"name"}:
        by_form.pop(name), by_api.pop(name)
    assert by_form == by_api


def test_filled_in_it_makes_the_job_that_the_api_makes_of_the_same(api, browser, filled):
    given = {
        "name": " Ünderstudy <b> ",
        "recipe.student.layers": " 2",
        "recipe.preset": "tmkd",
        "recipe.distil.epochs": "2",
        "recipe.distil.batch_size": "16",
        "recipe.mixup.alpha": "1e-1",
        "recipe.baselines[]": ["kd", "finetune"],
        "recipe.seed": "7",
        "recipe": '{"train_examples": 64, "distil": {"learning_rate": 1e-5}, "mixup": {}}',
        "resources.device": "cpu",
        "priority": "80",
        "deadline_seconds": "3600",
    }
    assert given.keys() <= filled.keys()
    by_form = api.get(f"/v1/jobs/{job_of(browser.post('/jobs/new', data=filled | given))}").json()
    by_api = api.post(
        "/v1/jobs",
        json={
            "name": "Ünderstudy <b>",
            "teacher_id": filled["teacher_id"],
            "dataset_id": filled["dataset_id"],
            "recipe": {
                "student": {"layers": 2},
                "preset": "tmkd",
                "distil": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-5},
                "mixup": {"alpha": 0.1},
                "baselines": ["kd", "finetune"],
                "seed": 7,
                "train_examples": 64,
            },
            "resources": {"device": "cpu"},
            "priority": 80,
            "deadline_seconds": 3600,
        },
    )
    assert by_api.status_code == 201, by_api.text
    by_api = by_api.json()
    assert by_form["recipe"] == by_api["recipe"]
    for name in ("name", "priority", "resources", "teacher_id", "dataset_id", "status"):
        assert by_form[name] == by_api[name]
    assert (by_form["deadline_at"] is None) == (by_api["deadline_at"] is None) is False


def test_only_what_can_be_used_is_offered(browser, browser_of, add_teacher, add_dataset, request_body):
    add_teacher(name="on its way", status="importing", files=None, info=None)
    add_dataset(name="half there", status="importing", report=None, fingerprint=None)
    page = read(browser.get("/jobs/new").text)
    for name in ("teacher_id", "dataset_id"):
        offered = [one["value"] for one in page.one("select", name=name).find("option")]
        assert offered == ["", request_body[name]]
    others = read(browser_of("bob").get("/jobs/new").text)
    assert [one["value"] for one in others.one("select", name="teacher_id").find("option")] == [""]
    assert "Upload one" in beside(others, "dataset_id")


def test_htmx_is_led_to_the_jobs_page(browser, filled, made):
    answer = browser.post("/jobs/new", data=filled, headers={"HX-Request": "true"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert browser.get(answer.headers["HX-Redirect"]).status_code == 200
    assert made() == 1


# --- once ----------------------------------------------------------------------------------------------


def test_sent_twice_it_makes_one_job(browser, filled, made):
    first, second = (job_of(browser.post("/jobs/new", data=filled)) for _ in range(2))
    assert first == second
    assert made() == 1


def test_clicked_in_haste_it_makes_one_job(browser, filled, made):
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: browser.post("/jobs/new", data=filled), range(6)))
    assert len({job_of(answer) for answer in answers}) == 1
    assert made() == 1


def test_every_form_is_another_request(browser, filled, made):
    again = fields(read(browser.get("/jobs/new").text).one(id="new-job"))["key"]
    assert again != filled["key"]
    browser.post("/jobs/new", data=filled)
    browser.post("/jobs/new", data=filled | {"key": again})
    assert made() == 2


@pytest.mark.parametrize("key", ["", "0", "g" * 32, "'; DROP TABLE jobs", "\x00"])
def test_a_key_that_is_not_ours_is_none(browser, filled, made, key):
    for _ in range(2):
        assert browser.post("/jobs/new", data=filled | {"key": key}).status_code == 303
    assert made() == 2


def test_the_same_form_with_other_words_is_refused_and_makes_nothing(browser, filled, made):
    job_of(browser.post("/jobs/new", data=filled))
    answer = browser.post("/jobs/new", data=filled | {"name": "another"})
    assert answer.status_code == 409
    assert read(answer.text).one(role="alert").words
    assert made() == 1
    again = fields(read(answer.text).one(id="new-job"))
    job_of(browser.post("/jobs/new", data=again))  # whoever does want a second one has it by the next click
    assert made() == 2


def test_a_refused_form_can_be_mended_and_sent_with_the_same_key(browser, filled, made):
    refused = browser.post("/jobs/new", data=filled | {"recipe.student.layers": "7"})
    mended = fields(read(refused.text).one(id="new-job"))
    assert mended["key"] == filled["key"]
    job_of(browser.post("/jobs/new", data=mended | {"recipe.student.layers": "3"}))
    assert made() == 1


# --- what it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "given", "words"),
    [
        ("recipe.student.layers", "7", "6 layers"),
        ("recipe.student.layers", "three", "integer"),
        ("recipe.student.layers", "<b>", "integer"),
        ("recipe.student.layers", "[" * 50_000, "integer"),
        ("recipe.student.layers", "{}", "integer"),
        ("recipe.distil.epochs", "0", "greater than"),
        ("recipe.distil.epochs", "many", "integer"),
        ("recipe.distil.batch_size", "0", "greater than"),
        ("recipe.mixup.alpha", "-1", "0.001"),
        ("recipe.mixup.alpha", "nan", "1000"),
        ("recipe.seed", "-1", "greater than"),
        ("recipe.preset", "magic", "mixkd"),
        ("priority", "101", "100"),
        ("deadline_seconds", "0", "1"),
        ("resources.device", "abacus", "gpu"),
        ("name", "a" * 201, "200"),
        ("name", "tab\there", "one line"),
        ("teacher_id", "", "required"),
        ("teacher_id", "mdl_01aaaaaaaaaaaaaaaaaaaaaaaa", "no model"),
        ("teacher_id", "<script>", "not an id"),
        ("dataset_id", "", "required"),
        ("dataset_id", "ds_01aaaaaaaaaaaaaaaaaaaaaaaa", "no data set"),
        ("recipe", "{", "not JSON"),
        ("recipe", "max_length: 64", "not JSON"),
        ("recipe", "[]", "JSON object"),
        ("recipe", "7", "JSON object"),
        ("recipe", '{"los": {}}', "no such field"),
        ("recipe", '{"teach": {"when": "never"}}', "head"),
        ("recipe", '{"mixup": {"alpa": 1}}', "no such field"),
        ("recipe", '{"student": 3}', "StudentSpec"),
        ("recipe", '{"preset": "kd"}', "given"),
        ("recipe", '{"\\ud800": "\\udfff", "train_examples": 1e999}', "valid string"),
        ("recipe", '{"loss": {"distance": "\\udfff"}}', "valid string"),
        ("recipe", '{"train_examples": ' + "9" * 5000 + "}", "not JSON"),
        ("recipe", '{"distil": ' * 50_000, "not JSON"),
        ("recipe", '{"distil": ' + "[" * 50_000 + "]" * 50_000 + "}", ""),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_what_is_wrong_is_said_beside_its_field_and_all_that_was_typed_is_kept(
    *, browser, filled, made, field, given, words
):
    typed = filled | {"name": "kept & <kept>", "recipe.baselines[]": ["kd"], "priority": "60", field: given}
    answer = browser.post("/jobs/new", data=typed)
    assert answer.status_code == 422, answer.text
    page = read(answer.text)
    assert words in beside(page, field)
    assert page.one(id=field)["aria-invalid"] == "true"
    assert "was not submitted" in page.one(role="alert").words
    invalid = [one["name"] for one in page if one["aria-invalid"]]
    assert invalid == [field], "nothing else is blamed"
    shown = fields(page.one(id="new-job"))
    choices = [one["value"] for one in page.one(id=field).find("option")]
    for name in typed:
        if name != field or not choices or given in choices:
            assert shown[name] == (typed[name] if name.endswith("[]") else typed[name].strip()), name
    assert made() == 0


@pytest.mark.parametrize(
    ("given", "recipe"),
    [
        ({"recipe.student.layers": "3"}, {"student": {"layers": 3}}),
        ({"recipe.student.layers": "3"}, {"student": {"layers": 2}}),
        ({"recipe.baselines[]": ["kd"]}, {"baselines": []}),
        ({"recipe.mixup.alpha": "0.4"}, {"mixup": {"alpha": None}}),
    ],
)
def test_the_same_thing_is_not_given_twice(browser, filled, made, *, given, recipe):
    answer = browser.post("/jobs/new", data=filled | given | {"recipe": json.dumps(recipe)})
    assert answer.status_code == 422
    [name] = given
    assert f"{name} is given here and in its own field" in beside(read(answer.text), "recipe")
    assert made() == 0


def test_all_that_is_wrong_is_said_at_once(browser, filled):
    wrong = {"recipe.student.layers": "7", "recipe": '{"teach": {"when": "never"}}'}
    page = read(browser.post("/jobs/new", data=filled | wrong).text)
    assert [one["name"] for one in page if one["aria-invalid"]] == ["recipe.student.layers", "recipe"]
    wrong = {"recipe.distil.epochs": "x", "priority": "y", "recipe.baselines[]": ["magic"], "teacher_id": ""}
    page = read(browser.post("/jobs/new", data=filled | wrong).text)
    assert {one["name"] for one in page if one["aria-invalid"]} >= {"recipe.distil.epochs", "priority"}
    assert "'kd'" in page.one(id="baselines-more").words
    assert "required" in beside(page, "teacher_id")


def test_what_belongs_to_no_field_is_said_at_the_top(browser, filled, made, api):
    job_of(browser.post("/jobs/new", data=filled))
    page = read(browser.post("/jobs/new", data=filled | {"priority": "1"}).text)
    assert "carried out before you changed it" in page.one(role="alert").words
    assert [one["name"] for one in page if one["aria-invalid"]] == []


def test_fields_that_are_not_the_forms_own_are_not_looked_at(browser, filled, made):
    """Nobody smuggles in what has no field."""
    more = {"owner_id": "own_x", "recipe.runtime.allow": "1", "resources.gpus": "9", "a.b.c": "x", "": "x"}
    job_of(browser.post("/jobs/new", data=filled | more))
    assert made() == 1


def test_htmx_gets_the_same_form_again(browser, filled, made):
    wrong = filled | {"recipe.distil.epochs": "0"}
    answer = browser.post("/jobs/new", data=wrong, headers={"HX-Request": "true"})
    assert answer.status_code == 422
    assert "HX-Retarget" not in answer.headers, "the form is to be swapped, not the notice"
    form = read(answer.text).one("form", id="new-job")
    assert fields(form) == wrong
    assert form["hx-select"] == form["hx-target"] == "#new-job"
    assert made() == 0
