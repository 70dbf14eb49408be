"""The dashboard in a real browser, over the whole stack."""

import gzip
import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Response, Route, expect

from demo.browser import chromium
from mixkd_client import Client
from tests.support.browsing import SECONDS, sign_in, violations, visiting
from tests.support.stack import Stack
from tests.support.waiting import until
from tests.support.words import ENDLESS, QUICK

MOST_SCRIPT = 150_000  # bytes of JavaScript that a page may load, as gzip sends them
SIZES = {"wide": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}

expect.set_options(timeout=SECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the session: Playwright keeps an event loop running in this thread as long as it lives.
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A page of whoever has the stack's first key."""
    assert stack.key is not None
    with visiting(browser, stack.url) as page:
        sign_in(page, stack.key)
        yield page


def badge(page: Page, text: str) -> None:
    """Wait until the job's page says so, without being loaded again."""
    expect(page.locator("#job .badge")).to_have_text(text)


def test_a_newcomer_signs_in_submits_watches_and_downloads(
    *, browser: Browser, stack: Stack, client: Client, teacher_id: str, dataset_id: str, tmp_path: Path
) -> None:
    assert stack.key is not None
    with visiting(browser, stack.url, expected=("401", "422")) as page:
        page.goto("/")
        page.get_by_label("API key").fill("mixkd_wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not valid")
        sign_in(page, stack.key)

        page.get_by_role("link", name="New job").click()
        page.get_by_label("Teacher", exact=True).select_option(teacher_id)
        page.get_by_label("Data set").select_option(dataset_id)
        page.get_by_label("Name").fill("by hand")
        page.get_by_label("Layers of the student").fill("9")
        page.get_by_label("Epochs").fill(str(QUICK["distil"]["epochs"]))  # type: ignore[index]
        page.get_by_label("The rest of the recipe").fill(
            '{"teach": {"epochs": 8, "learning_rate": 3e-3, "batch_size": 16},'
            ' "distil": {"learning_rate": 3e-3, "batch_size": 16}, "max_length": 16}'
        )
        page.get_by_role("button", name="Submit").click()
        layers = page.get_by_label("Layers of the student")
        expect(layers).to_have_attribute("aria-invalid", "true")
        expect(layers).to_have_accessible_description(re.compile("the teacher has 2"))
        expect(layers).to_have_value("9")
        layers.fill("1")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url("**/jobs/job_*")
        page.evaluate("window.neverLoadedAgain = true")

        expect(page.get_by_role("heading", level=1)).to_have_text("by hand")
        badge(page, "succeeded")
        assert page.evaluate("window.neverLoadedAgain")
        job_id = page.url.rpartition("/")[2]
        told = [int(each) for each in page.locator("#events .seq").all_inner_texts()]
        assert told == list(range(len(list(client.jobs.events(job_id))), 0, -1))
        expect(page.locator("#charts canvas")).to_have_count(2)
        expect(page.get_by_role("heading", name="Report card")).to_be_visible()

        with page.expect_download() as download:
            page.get_by_role("link", name="Download .tar").click()
        download.value.save_as(tmp_path / "student.tar")
    with tarfile.open(tmp_path / "student.tar") as archive:
        packed = {
            member.name.partition("/")[2]: hashlib.sha256(archive.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
            for member in archive.getmembers()
        }
    assert packed == {file.path: file.sha256 for file in client.jobs.student(job_id).files}
    recipe = client.jobs.get(job_id).recipe
    assert (recipe["student"]["layers"], recipe["distil"]["epochs"], recipe["max_length"]) == (1, 8, 16)


def test_a_running_job_is_steered_from_its_page(
    page: Page, client: Client, teacher_id: str, dataset_id: str
) -> None:
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS)
    page.goto(f"/jobs/{job.id}")
    page.evaluate("window.neverLoadedAgain = true")
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    badge(page, "paused")
    page.get_by_role("button", name="Resume").click()
    badge(page, "running")
    assert page.evaluate("window.neverLoadedAgain")
    client.jobs.cancel(job.id)
    badge(page, "cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    client.jobs.cancel(job.id)
    badge(page, "cancelled")


def test_the_list_shows_a_new_job_and_its_state_by_itself(
    page: Page, client: Client, teacher_id: str, dataset_id: str
) -> None:
    page.evaluate("window.neverLoadedAgain = true")
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS, name="seen at once")
    row = page.locator(f"#{job.id}")
    expect(row).to_contain_text("running")
    client.jobs.cancel(job.id)
    expect(row).to_contain_text("cancelled")
    assert page.evaluate("window.neverLoadedAgain")


def test_a_stream_whose_first_connection_fails_is_tried_again(
    page: Page, client: Client, teacher_id: str, dataset_id: str
) -> None:
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        refused.append(route.request.url)
        if len(refused) == 1:
            route.fulfill(status=204)
        else:
            route.continue_()

    page.route("**/stream*", refuse_once)
    page.goto(f"/jobs/{job.id}")
    until(lambda: client.jobs.get(job.id).status == "running")
    client.jobs.cancel(job.id)
    badge(page, "cancelled")
    assert len(refused) > 1
    page.unroute_all(behavior="ignoreErrors")


def test_a_tab_in_the_background_needs_no_connection_until_it_is_looked_at(
    page: Page, client: Client, teacher_id: str, dataset_id: str
) -> None:
    """A browser has six to a host, and each page that is followed takes one."""
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS)
    page.add_init_script("Object.defineProperty(document, 'hidden', { get: () => !window.lookedAt })")
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/stream" in request.url else None)
    page.goto(f"/jobs/{job.id}")
    client.jobs.cancel(job.id)
    page.wait_for_timeout(4000)  # longer than it takes to try again
    assert streams == []
    page.evaluate("window.lookedAt = true; document.dispatchEvent(new Event('visibilitychange'))")
    badge(page, "cancelled")


def test_a_page_whose_key_is_revoked_leads_to_the_sign_in(
    browser: Browser, stack: Stack, client: Client, teacher_id: str, dataset_id: str
) -> None:
    assert stack.key is not None
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS)
    with httpx.Client(base_url=stack.url, headers={"Authorization": f"Bearer {stack.key}"}) as api:
        made = api.post("/v1/keys", json={"name": "short-lived"}).json()
        with visiting(browser, stack.url, expected=("401", "stream")) as page:
            sign_in(page, made["key"])
            page.goto(f"/jobs/{job.id}")
            expect(page.locator("#job .badge")).to_contain_text("running")
            assert api.delete(f"/v1/keys/{made['id']}").status_code == 204
            page.wait_for_url("**/sign-in?next=**")
    client.jobs.cancel(job.id)


def test_a_script_in_a_name_is_text(
    page: Page, client: Client, teacher_id: str, dataset_id: str, data: dict[str, Path]
) -> None:
    evil = "</title><script>alert(1)</script><img src=x onerror=alert(2)>'\"{{7*7}}"
    bad = client.datasets.upload(evil, train=data["train"])
    job = client.jobs.create(teacher_id, bad.id, recipe=ENDLESS, name=evil)
    for place in ("/jobs", f"/jobs/{job.id}", "/datasets", "/jobs/new"):
        page.goto(place)
        expect(page.get_by_text(evil).first).to_be_attached()
    page.goto(f"/jobs/{job.id}")
    expect(page).to_have_title(f"{evil} · mixkd")
    until(lambda: client.jobs.get(job.id).status == "running")
    badge(page, "running")  # what the stream brings is text too
    client.jobs.cancel(job.id)
    badge(page, "cancelled")


def test_axe_finds_nothing_in_any_page_theme_or_width(
    browser: Browser, stack: Stack, client: Client, teacher_id: str, dataset_id: str
) -> None:
    assert stack.key is not None
    done = client.jobs.create(teacher_id, dataset_id, recipe=QUICK | {"baselines": ["kd"]}, name="done")
    client.jobs.wait(done.id, timeout=120)
    running = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS, name="running")
    failed = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS, name="too late", deadline_seconds=1)
    until(lambda: client.jobs.get(failed.id).status == "failed")
    until(lambda: client.jobs.get(running.id).progress is not None)
    places = [
        "/jobs", "/jobs?status=paused", f"/jobs/{done.id}", f"/jobs/{running.id}", f"/jobs/{failed.id}",
        "/jobs/new", "/datasets", "/models", "/workers", "/nowhere",
    ]  # fmt: skip
    found = []
    for theme in ("light", "dark"):
        for size in SIZES.values():
            with visiting(
                browser, stack.url, expected=("404", "422"), color_scheme=theme, viewport=size
            ) as page:
                page.goto("/sign-in")
                found += [f"/sign-in {theme}: {one}" for one in violations(page)]
                sign_in(page, stack.key)
                for place in places:
                    page.goto(place)
                    if place == f"/jobs/{done.id}":
                        expect(page.locator("#charts canvas")).to_have_count(2)
                    found += [f"{place} {theme} {size['width']}: {one}" for one in violations(page)]
                    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                    assert wider <= 0, f"{place} is {wider} px wider than a screen of {size['width']}"
                page.goto("/jobs/new")
                page.get_by_label("Teacher", exact=True).select_option(teacher_id)
                page.get_by_label("Data set").select_option(dataset_id)
                page.get_by_label("Epochs").fill("0")
                page.get_by_role("button", name="Submit").click()
                expect(page.get_by_label("Epochs")).to_have_attribute("aria-invalid", "true")
                found += [f"a refused form {theme}: {one}" for one in violations(page)]
    client.jobs.cancel(running.id)
    assert found == []


def test_the_keyboard_alone_is_enough(
    browser: Browser, stack: Stack, client: Client, teacher_id: str, dataset_id: str
) -> None:
    assert stack.key is not None
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS, name="by keyboard")
    with visiting(browser, stack.url) as page:
        page.goto("/sign-in")
        page.keyboard.type(stack.key)  # the field has the focus already
        page.keyboard.press("Enter")
        page.wait_for_url("**/jobs")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        while page.evaluate("document.activeElement.textContent") != "by keyboard":
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/jobs/{job.id}")
        cancel = page.get_by_role("button", name="Pause")
        expect(cancel).to_be_visible()
        while not page.evaluate("document.activeElement.textContent === 'Pause'"):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        badge(page, "paused")
    client.jobs.cancel(job.id)


def test_a_page_loads_little_script(
    browser: Browser, stack: Stack, client: Client, teacher_id: str, dataset_id: str
) -> None:
    assert stack.key is not None
    job = client.jobs.create(teacher_id, dataset_id, recipe=ENDLESS)
    client.jobs.cancel(job.id)
    loaded: dict[str, int] = {}

    def measure(response: Response) -> None:
        if response.request.resource_type == "script":
            assert response.headers["content-encoding"] == "gzip"
            loaded[response.url] = len(gzip.compress(response.body()))

    with visiting(browser, stack.url) as page:
        page.on("response", measure)
        sign_in(page, stack.key)
        page.goto(f"/jobs/{job.id}")
        page.wait_for_load_state("load")
    assert len(loaded) == 5
    assert sum(loaded.values()) <= MOST_SCRIPT


def test_without_javascript_a_job_can_still_be_submitted_and_cancelled(
    browser: Browser, stack: Stack, client: Client, teacher_id: str, dataset_id: str
) -> None:
    assert stack.key is not None
    with visiting(browser, stack.url, java_script_enabled=False) as page:
        sign_in(page, stack.key)
        page.goto("/jobs/new")
        page.get_by_label("Teacher", exact=True).select_option(teacher_id)
        page.get_by_label("Data set").select_option(dataset_id)
        page.get_by_label("Layers").fill("1")
        page.get_by_label("Tokens of a row").fill("16")
        page.get_by_label("Epochs").fill("900")
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url("**/jobs/job_*")
        page.get_by_role("button", name="Cancel").click()
        job_id = page.url.rpartition("/")[2]
        until(lambda: client.jobs.get(job_id).status == "cancelled")
        page.reload()
        badge(page, "cancelled")
