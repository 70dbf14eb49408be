"""Coming and going: what a session is, who has one, and when it ends."""

from http.cookies import SimpleCookie

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.dashboard.session import COOKIE
from api.main import create_app
from tests.support.pages import BROWSER, read
from tests.support.waiting import until


def cookie(answer: httpx.Response):
    """The session that an answer gives, or takes."""
    return SimpleCookie(answer.headers["Set-Cookie"])[COOKIE]


def leads_to_sign_in(answer: httpx.Response, back_to: str = "%2Fjobs") -> bool:
    return (answer.status_code, answer.headers.get("Location")) == (303, f"/sign-in?next={back_to}")


# --- coming --------------------------------------------------------------------------------------------


def test_a_good_key_gives_a_cookie_that_no_script_reads_and_that_holds_no_key(stranger, new_key, settings):
    key = new_key("ada")
    answer = stranger.post("/sign-in", data={"key": f"  {key} "})  # as it comes out of a clipboard
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs")
    given = cookie(answer)
    assert (given["httponly"], given["samesite"].lower(), given["secure"]) == (True, "lax", "")
    assert (given["path"], given["domain"]) == ("/", "")
    assert int(given["max-age"]) == settings.session_days * 24 * 3600
    for part in (key, key.removeprefix("mixkd_")):
        assert part not in answer.text + str(answer.headers)
    assert stranger.get("/jobs").status_code == 200


def test_the_cookie_is_for_https_only_where_the_page_was_asked_for_by_https(stranger, new_key, settings):
    data = {"key": new_key("ada")}
    behind_a_proxy = stranger.post("/sign-in", data=data, headers={"X-Forwarded-Proto": "https"})
    assert cookie(behind_a_proxy)["secure"]
    headers = {**BROWSER, "Origin": "https://mixkd.example"}
    with TestClient(create_app(settings), base_url="https://mixkd.example", headers=headers) as direct:
        answer = direct.post("/sign-in", data=data, follow_redirects=False)
        assert answer.status_code == 303
        assert cookie(answer)["secure"]


@pytest.mark.parametrize("key", ["mixkd_" + "x" * 43, "<script>alert(1)</script>", "", "é\x00", "a" * 9000])
def test_a_bad_key_gets_the_form_again_and_is_not_repeated(stranger, key):
    answer = stranger.post("/sign-in", data={"key": key, "next": "/models"})
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    page = read(answer.text)
    assert "not valid" in page.one(role="alert").words
    assert page.one("input", name="key")["value"] == ""
    assert page.one("input", name="next")["value"] == "/models"
    assert not key.strip() or key.strip() not in answer.text
    assert leads_to_sign_in(stranger.get("/jobs"))


@pytest.mark.parametrize(
    "page", ["/models", "/jobs?status=failed&cursor=YWJj", "/jobs/job_01aaaaaaaaaaaaaaaaaaaaaaaa", "/é b"]
)
def test_whoever_signs_in_sees_the_page_that_was_wanted(stranger, new_key, page):
    form = read(stranger.get("/sign-in", params={"next": page}).text)
    assert form.one("input", name="next")["value"] == page
    answer = stranger.post("/sign-in", data={"key": new_key("ada"), "next": page})
    assert answer.status_code == 303
    assert answer.next_request.url == stranger.build_request("GET", page).url


@pytest.mark.parametrize(
    "page",
    [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\/evil.example",
        "https://evil.example/jobs",
        "evil.example",
        "javascript:alert(1)",
        "/\t/evil.example",
        "\t//evil.example",
        " //evil.example",
        "/jobs\r\nSet-Cookie: a=b",
        "/\u2028/evil.example",
        "",
    ],
)
def test_signing_in_leads_to_no_other_site(stranger, new_key, page):
    assert read(stranger.get("/sign-in", params={"next": page}).text).one(name="next")["value"] == "/jobs"
    answer = stranger.post("/sign-in", data={"key": new_key("ada"), "next": page})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs")
    assert len(answer.headers.get_list("Set-Cookie")) == 1


def test_without_a_secret_the_setting_is_named(stranger, browser, new_key, replace, settings):
    replace("settings", settings.model_copy(update={"session_secret": None}))
    answer = stranger.post("/sign-in", data={"key": new_key("ada")})
    assert answer.status_code == 503
    assert "Set-Cookie" not in answer.headers
    assert "MIXKD_SESSION_SECRET" in read(answer.text).one("main").words
    assert stranger.get("/sign-in").status_code == 200
    assert stranger.post("/sign-in", data={"key": "mixkd_wrong"}).status_code == 401
    assert leads_to_sign_in(browser.get("/jobs")), "a session from before"


# --- staying -------------------------------------------------------------------------------------------


def test_where_one_was_going_is_remembered(stranger, job_id):
    assert leads_to_sign_in(stranger.get(f"/jobs/{job_id}"), f"%2Fjobs%2F{job_id}")
    assert leads_to_sign_in(stranger.get("/jobs?status=failed"), "%2Fjobs%3Fstatus%3Dfailed")
    answer = stranger.post(f"/jobs/{job_id}/cancel")
    assert leads_to_sign_in(answer, "%2F"), "after a change there is no page to go back to"


def test_any_process_with_the_same_secret_knows_who_looks(browser, settings):
    headers = {**BROWSER, "Cookie": f"{COOKIE}={browser.cookies[COOKIE]}"}
    foreign = settings.model_copy(update={"session_secret": SecretStr("quite another secret, as long as it")})
    for same, status in ((settings, 200), (foreign, 303)):
        with TestClient(create_app(same), headers=headers, follow_redirects=False) as other:
            answer = other.get("/jobs")
            assert answer.status_code == status
    assert leads_to_sign_in(answer)


def test_a_cookie_that_was_tampered_with_is_none(stranger, browser):
    good = browser.cookies[COOKIE]
    payload, moment, signature = good.split(".")
    for bad in (
        f"{payload[:-1]}{'A' if payload[-1] != 'A' else 'B'}.{moment}.{signature}",
        f"{payload}.{moment}.{signature[::-1]}",
        f"{payload}.{moment[:-1]}{'A' if moment[-1] != 'A' else 'B'}.{signature}",
        f"{payload}.{moment}",
        payload,
        "",
        ".." * 500,
        "ÿ",
    ):
        answer = stranger.get("/jobs", headers={"Cookie": f"{COOKIE}={bad}".encode("latin-1")})
        assert leads_to_sign_in(answer), bad
    assert stranger.get("/jobs", headers={"Cookie": f"{COOKIE}={good}"}).status_code == 200


def test_a_session_ends_after_its_days(browser, replace, settings):
    assert browser.get("/jobs").status_code == 200
    replace("settings", settings.model_copy(update={"session_days": 1 / (24 * 3600)}))
    until(lambda: leads_to_sign_in(browser.get("/jobs")), 10, "a second is over")


def test_a_session_ends_with_its_key(browser, browser_of, revoke_keys):
    bob = browser_of("bob")
    revoke_keys("ada")
    assert leads_to_sign_in(browser.get("/jobs"))
    assert bob.get("/jobs").status_code == 200


# --- going ---------------------------------------------------------------------------------------------


def test_signing_out_takes_the_cookie(browser):
    answer = browser.post("/sign-out")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")
    taken = cookie(answer)
    assert (taken.value, taken["max-age"], taken["path"]) == ("", "0", "/")
    assert COOKIE not in browser.cookies
    assert leads_to_sign_in(browser.get("/jobs"))
