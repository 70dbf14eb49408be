"""Pages in a real browser, where whatever a page should not do is an error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

AXE = Path(__file__).resolve().parents[2] / "build" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
SECONDS = 60_000.0  # ms; ample, for the machine may be busy


@contextmanager
def visiting(browser: Browser, url: str, *, expected: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
    """A fresh browser's page. When it closes, no page may have complained or asked another host.

    Args:
        expected: parts of complaints that are no defect here, such as that of a server which a test kills.
        options: of the browser's context, such as `color_scheme`.
    """
    complaints: list[str] = []
    context = browser.new_context(base_url=url, **options)
    context.set_default_timeout(SECONDS)
    page = context.new_page()

    def heard(message: ConsoleMessage) -> None:  # also what the Content-Security-Policy has stopped
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith((url, "data:")):
            complaints.append(f"another host is asked: {request.url}")

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", asked)
    page.on("dialog", lambda dialog: (complaints.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
    try:
        yield page
    finally:
        context.close()
    assert [one for one in complaints if not any(part in one for part in expected)] == []


def sign_in(page: Page, key: str) -> None:
    """Through the form, as a person does."""
    page.goto("/sign-in")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/jobs")


def violations(page: Page) -> list[str]:
    """What axe has to say against a page, by its rules for WCAG 2.2 AA and its best practices."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run()")["violations"]
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]
