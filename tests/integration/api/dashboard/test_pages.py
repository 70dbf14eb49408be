"""What the pages show: the list, a job in every state, its report and files, and the tables beside it."""

import json
import tarfile
from io import BytesIO

import pytest
from sqlalchemy import update

from core.ids import new_id
from core.jobs import claims, ends
from core.jobs.models import Job, JobEvent
from core.jobs.states import FailureCause, JobStatus
from core.workers import service as workers
from tests.support.pages import Element, fields, read
from tests.support.report_card import SETS, STUDENT, TEACHER, TRUTH, make_report, outcome

ODD = 'odd/na me"é&<b>#%41?.txt'


@pytest.fixture
def submit(api, request_body):
    """`submit(name="x")`: a queued job of ada's."""
    return lambda **changes: api.post("/v1/jobs", json=request_body | changes).json()["id"]


@pytest.fixture
def see(browser):
    """`see("/jobs")`: that page."""

    def see(path: str) -> Element:
        answer = browser.get(path)
        assert answer.status_code == 200, answer.text
        return read(answer.text)

    return see


def listed(page: Element) -> list[str]:
    return [one["id"] for one in page.one("tbody", id="jobs").find("tr")]


def offered(page: Element) -> list[str]:
    """The buttons of a job's page."""
    return [one.words for one in page.one(id="job").find("button")]


# --- the list ------------------------------------------------------------------------------------------


def test_the_list_can_be_narrowed_to_a_state(api, see, submit):
    queued, paused, cancelled = submit(), submit(), submit()
    api.post(f"/v1/jobs/{paused}/pause")
    api.post(f"/v1/jobs/{cancelled}/cancel")
    assert listed(see("/jobs")) == [cancelled, paused, queued]
    expected = {"queued": [queued], "paused": [paused], "cancelled": [cancelled]}
    filters = see("/jobs").one(class_="filter").find("a")
    assert [one["href"] for one in filters] == ["/jobs", *(f"/jobs?status={one}" for one in JobStatus)]
    for link in filters[1:]:
        page = see(link["href"])
        status = link["href"].partition("=")[2]
        assert listed(page) == expected.get(status, [])
        assert [one["href"] for one in page.find("a", aria_current="true")] == [link["href"]]
        assert (page.one(id="empty").words == "") == (status in expected)


def test_its_pages_lead_to_each_other_and_no_job_is_lost_or_shown_twice(api, see, request_body):
    made = [api.post("/v1/jobs", json=request_body).json()["id"] for _ in range(103)]
    for number in range(0, 103, 2):
        api.post(f"/v1/jobs/{made[number]}/pause")
    for start, expected in (("/jobs", made), ("/jobs?status=paused", made[::2])):
        seen, at = [], start
        while at:
            page = see(at)
            seen += listed(page)
            older = page.find("a", rel="next")
            at = "/jobs" + older[0]["href"] if older else ""
        assert seen == expected[::-1]
        newest = page.one("nav", class_="pager").find("a")[0]["href"]
        assert listed(see("/jobs" + newest)) == listed(see(start))


def test_a_row_says_where_a_job_is(see, submit, run_by_worker, sessions):
    first, second = submit(name="first"), submit(name="second", recipe={"student": {"layers": 1}})
    page = see("/jobs")
    assert "queued, number 1" in page.one("tr", id=first).words
    assert "queued, number 2" in page.one("tr", id=second).words
    assert "MiniLM → 1 layer" in page.one("tr", id=second).words
    token = run_by_worker()
    with sessions.begin() as session:
        claims.enter_phase(session, token, "teach", 10)
    row = see("/jobs").one("tr", id=first)
    assert "running" in row.words
    assert "teach" in row.words
    assert row.one("a")["href"] == f"/jobs/{first}"


def test_without_jobs_it_leads_to_the_first(see):
    assert see("/jobs").one(id="empty").one("a")["href"] == "/jobs/new"


# --- a job ---------------------------------------------------------------------------------------------


def test_each_state_has_its_wishes_and_each_of_them_is_granted(
    *, browser, see, submit, run_by_worker, sessions, finish
):
    """A button that is shown must not be answered with a refusal."""
    job_id = submit()
    path, token = f"/jobs/{job_id}", None

    def wish(name: str, state: str, *then: str) -> None:
        form = next(one for one in see(path).one(id="job").find("form") if one["action"] == f"{path}/{name}")
        assert form["method"] == "post"
        assert browser.post(form["action"], data=fields(form)).headers["Location"] == path
        page = see(path)
        assert state in page.one(id="job").one(role="status").words
        assert offered(page) == list(then)

    assert offered(see(path)) == ["Pause", "Cancel"]
    wish("pause", "paused", "Resume", "Cancel")
    wish("resume", "queued, number 1", "Pause", "Cancel")
    token = run_by_worker()
    assert offered(see(path)) == ["Pause", "Cancel"], "there is no training to finish yet"
    with sessions.begin() as session:
        claims.enter_phase(session, token, "distil", 10)
    wish("pause", "pausing", "Finish now", "Resume", "Cancel")
    wish("resume", "running", "Finish now", "Pause", "Cancel")
    wish("finish", "finishing", "Pause", "Cancel")
    wish("cancel", "cancelling")
    with sessions.begin() as session:
        ends.cancelled(session, token)
    assert offered(see(path)) == ["Retry"]
    wish("retry", "queued, number 1", "Pause", "Cancel")
    finish(run_by_worker(), {})
    assert offered(see(path)) == []


def test_a_wish_that_comes_too_late_is_refused_in_words(browser, submit):
    job_id = submit()
    browser.post(f"/jobs/{job_id}/cancel")
    answer = browser.post(f"/jobs/{job_id}/pause")
    assert answer.status_code == 409
    assert "a job that is cancelled cannot be paused" in answer.text.lower()


def test_htmx_gets_the_job_as_it_is_now(browser, submit):
    job_id = submit()
    htmx = {"HX-Request": "true"}
    part = read(browser.post(f"/jobs/{job_id}/pause", headers=htmx).text)
    assert part.find("html") == []
    assert "paused" in part.one(role="status").words
    browser.post(f"/jobs/{job_id}/cancel")
    answer = browser.post(f"/jobs/{job_id}/retry", headers=htmx)
    assert (answer.status_code, answer.headers["HX-Refresh"]) == (204, "true"), "its stream has ended"


def test_only_ending_a_job_is_asked_twice(see, submit):
    forms = see(f"/jobs/{submit()}").one(id="job").find("form")
    assert [one["action"].rpartition("/")[2] for one in forms if one["hx-confirm"]] == ["cancel"]


def test_a_long_history_shows_its_newest_events_and_says_where_the_others_are(see, submit, sessions):
    job_id = submit()
    with sessions.begin() as session:
        owner_id = session.get_one(Job, job_id).owner_id
        session.execute(update(Job).where(Job.id == job_id).values(event_seq=151))
        for seq in range(2, 152):
            session.add(JobEvent(job_id=job_id, seq=seq, owner_id=owner_id, type="brand_new", data={}))
    page = see(f"/jobs/{job_id}")
    shown = [int(one["id"].removeprefix("event-")) for one in page.one(id="events").find("li")]
    assert shown == list(range(151, 51, -1))
    assert "The 51 events before these" in page.words
    assert page.one(id="live")["hx-sse:connect"].endswith("?seen=151.")
    assert "brand new" in page.one(id="event-151").words


def test_a_failed_job_says_why_what_to_do_and_how_its_log_ended(see, submit, run_by_worker, sessions):
    job_id = submit()
    token = run_by_worker()
    with sessions.begin() as session:
        claims.enter_phase(session, token, "distil")
        told = ("the loss was <NaN>", "recipe.distil", "halve it")
        ends.fail(session, token, ends.Failure(FailureCause.DIVERGED, *told, 3, "a\n<b>"))
    page = see(f"/jobs/{job_id}")
    words = page.one(id="job").words
    for one in ("Diverged", "recipe.distil", "The loss was <NaN>.", "Halve it."):
        assert one in words
    assert page.one(id="log-1").one("pre").text == "a\n<b>"
    assert page.one("li", class_="failed").words.startswith("distil")
    assert "exit status 3" in page.one(id="attempt-1").words


def test_a_failure_without_words_shows_none(see, submit, run_by_worker, sessions):
    job_id = submit()
    token = run_by_worker()
    with sessions.begin() as session:
        ends.fail(session, token, ends.Failure(FailureCause.DIVERGED, ""))
    assert see(f"/jobs/{job_id}").one(id="job").one(class_="notice").words == "Diverged"


# --- what came of it -----------------------------------------------------------------------------------


@pytest.fixture
def succeed(sessions, submit, run_by_worker, finish):
    """`succeed(report)`: a job that ended with this report."""

    def succeed(report: dict, files: dict[str, bytes] | None = None) -> str:
        job_id = submit()
        finish(run_by_worker(), files or {})
        with sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(report=report))
        return job_id

    return succeed


def test_the_students_files_can_be_fetched_from_the_page(browser, see, succeed):
    files = {"config.json": b"{}", ODD: b"odd", "empty": b""}
    page = see(f"/jobs/{succeed({}, files)}")
    links = {one.words: one["href"] for one in page.one(id="outcome").find("a")}
    for name, content in files.items():
        assert browser.get(links[name]).content == content
    with tarfile.open(fileobj=BytesIO(browser.get(links["Download .tar"]).content)) as packed:
        assert len(packed.getmembers()) == len(files)
    assert browser.get(links[".zip"]).content[:2] == b"PK"
    part = browser.get(links["config.json"], headers={"Range": "bytes=1-1"})
    assert (part.status_code, part.content) == (206, b"}")


def test_a_report_shows_every_set_with_intervals_and_baselines(browser, see, succeed, tmp_path):
    answers = {name: {"teacher": TEACHER, "student": STUDENT, "kd": 2 * TRUTH} for name in SETS}
    baselines = {"kd": outcome()}
    report = make_report(tmp_path, {"baselines": ["kd"]}, answers_by_set=answers, baselines=baselines)
    card = json.loads(report.model_dump_json())
    job_id = succeed(card)
    page = see(f"/jobs/{job_id}")
    table = next(one for one in page.find("table") if one.one("caption").words.startswith("Scores on every"))
    assert [one.words for one in table.find("th")][2:5] == ["Teacher", "Student", "kd"]
    shown = {tuple(cell.words for cell in row.find("td")) for row in table.one("tbody").find("tr")}
    assert len(shown) == sum(len(one["student"]["scores"]) for one in card["sets"].values())
    for name, one in card["sets"].items():
        for metric, student in one["student"]["scores"].items():
            teacher = one["teacher"]["scores"][metric]
            kd = card["baselines"]["kd"]["sets"][name]["scores"][metric]
            difference = one["difference"][metric]["value"]
            assert (
                f"{name} 4 rows",
                metric.replace("_", " "),
                f"{teacher['value']:.3f} {teacher['low']:.3f}–{teacher['high']:.3f}",
                f"{student['value']:.3f} {student['low']:.3f}–{student['high']:.3f}",
                f"{kd['value']:.3f}",
                f"{difference:+.3f}",
            ) in shown
    assert "50 %" in page.one("dl", class_="big").words, "of its size"
    answer = browser.get(f"/jobs/{job_id}/report.json")
    assert answer.json() == card
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{job_id}-report.json"'


def test_a_report_of_a_regression_has_no_share_that_was_kept(see, succeed, tmp_path):
    card = json.loads(make_report(tmp_path).model_dump_json())
    card["comparison"] |= {"metric": "rmse", "kept": None}
    for one in card["sets"].values():
        for model in (one["teacher"], one["student"]):
            model["scores"] = {"rmse": {"value": 0.25, "low": 0.125, "high": 0.5}}
        one["difference"] = {"rmse": {"value": 0.0, "low": 0.0, "high": 0.0}}
    page = see(f"/jobs/{succeed(card)}")
    assert "of the teacher's" not in page.one("dl", class_="big").words
    assert "+0.000" in page.one(id="outcome").words


OLD_MODEL = {
    "family": "bert",
    "layers": 6,
    "hidden_size": 384,
    "parameters": 22_000_000,
    "bytes": 88_000_000,
    "validation": {"accuracy": 0.9, "macro_f1": 0.9, "loss": 0.3},
    "test": {"accuracy": 0.9, "macro_f1": 0.9, "loss": 0.3},
    "speed": {"latency_ms_p50": 4.0, "latency_ms_p95": 5.0, "examples_per_second": 800.0},
}
OLD_RATIOS = {"accuracy_kept": 1.0, "macro_f1_kept": 1.0, "parameters": 0.5, "bytes": 0.5, "latency": 0.5}


@pytest.mark.parametrize(
    "report",
    [
        {"format": 1, "teacher": OLD_MODEL, "student": OLD_MODEL, "comparison": OLD_RATIOS},
        {"format": 1, "teacher": OLD_MODEL, "student": OLD_MODEL, "comparison": OLD_RATIOS | {"latency": 0}},
        {"format": 1, "teacher": {}, "student": {}, "comparison": {}},
        {"student": {"accuracy": 0.93}},
        {},
    ],
    ids=["format 1", "without time", "without content", "of a test", "empty"],
)
def test_a_report_of_an_earlier_release_breaks_neither_page_nor_stream(browser, see, succeed, report):
    job_id = succeed(report)
    page = see(f"/jobs/{job_id}")
    assert "succeeded" in page.one(id="job").words
    if report.get("teacher"):
        assert "22.0 M" in page.one(id="outcome").words
    assert browser.get(f"/jobs/{job_id}/report.json").json() == report
    assert "event: end" in browser.get(f"/jobs/{job_id}/stream").text


# --- the tables beside it ------------------------------------------------------------------------------


def test_workers_say_whether_they_live_and_whose_job_it_is(see, submit, sessions, run_by_worker, browser_of):
    assert "mixkd-server worker" in see("/workers").words
    job_id, worker_id = submit(), new_id("wrk")
    run_by_worker()
    with sessions.begin() as session:
        workers.register(session, worker_id, hostname="<b>gpu</b>", pid=2, device="NVIDIA H100", gpus=1)
        use = [{"busy": 0.994, "used": 4_200_000_000, "total": 85_000_000_000}]
        workers.heartbeat(session, worker_id, gpu_use=use)
    page = see("/workers")
    busy, idle = sorted(page.one("tbody").find("tr"), key=lambda row: "idle" in row.words)
    assert busy.one("a")["href"] == f"/jobs/{job_id}"
    assert "99 %, 4.2 GB of 85.0 GB" in idle.words
    assert "<b>gpu</b>" in idle.words
    others = read(browser_of("bob").get("/workers").text)
    assert job_id not in others.text
    assert "busy for another" in others.words


@pytest.mark.parametrize(("path", "add"), [("/datasets", "add_dataset"), ("/models", "add_teacher")])
def test_tables_say_what_was_refused_and_lead_to_older_rows(request, see, path, add):
    assert "register" in see(path).words or "upload" in see(path).words
    make = request.getfixturevalue(add)
    columns = {"report": None, "fingerprint": None} if add == "add_dataset" else {"info": None, "files": None}
    make(name="refused", status="refused", refusal={"detail": "it is pickled", "errors": []}, **columns)
    make(name="on its way", status="importing", **columns)
    for number in range(50):
        make(name=f"number {number}")
    page = see(path)
    assert len(page.one("tbody").find("tr")) == 50
    [older] = page.find("a", rel="next")
    rest = see(path + older["href"]).one("tbody").words
    assert "It is pickled." in rest
    assert "importing" in rest


def test_sections_lead_to_each_other_and_say_where_one_is(see):
    links = [one["href"] for one in see("/jobs").one("nav", aria_label="Sections").find("a")]
    assert links == ["/jobs", "/datasets", "/models", "/workers", "/docs"]
    for place in links[:-1]:
        page = see(place)
        assert [one["href"] for one in page.find("a", aria_current="page")] == [place]
        assert len(page.find("h1")) == 1
        assert page.one("html")["lang"] == "en"


def test_every_field_has_a_label_and_every_id_is_there_once(see, submit):
    for path in ("/jobs", "/jobs/new", f"/jobs/{submit()}", "/workers", "/sign-in"):
        page = see(path)
        ids = [one["id"] for one in page if one["id"]]
        assert len(ids) == len(set(ids))
        labelled = {one["for"] for one in page.find("label") if one["for"]}
        inside = {field["name"] or field["id"] for one in page.find("label") for field in one}
        for field in page.find("input") + page.find("select") + page.find("textarea"):
            if field["type"] != "hidden":
                assert field["id"] in labelled or (field["name"] or field["id"]) in inside, field
        for one in page:
            names = " ".join(one[name] for name in ("aria-describedby", "aria-labelledby", "for"))
            for reference in names.split():
                assert reference in ids, f"{one.tag} refers to {reference}"
