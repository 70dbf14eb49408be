"""A Chromium, for the tests of the pages and for pictures of them.

`python -m demo.browser` sees that there is one: the system's, otherwise one that the package manager installs
(as root, with apt), otherwise Playwright's own. `make test` calls it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Playwright, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

# It must talk to nobody but us: no updates, no look-ups of its maker's hosts.
ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium, for as long as the context lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=installed(playwright),
            args=ARGUMENTS,
            chromium_sandbox=os.geteuid() != 0,  # Chromium refuses its sandbox to root
        )
        try:
            yield browser
        finally:
            browser.close()


def installed(playwright: Playwright) -> str | None:
    """Where Chromium lies; None: nowhere."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    own = playwright.chromium.executable_path
    return found or (own if Path(own).exists() else None)


def main() -> int:
    """See that there is a Chromium; exit status 1: there is none, and none could be installed."""
    with sync_playwright() as playwright:
        if installed(playwright):
            return 0
        if os.geteuid() == 0 and shutil.which("apt-get"):
            print("setup: Chromium, for the tests of the dashboard", flush=True)
            apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq", "-y"]
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in ("update",), ("install", "--no-install-recommends", "chromium"):
                subprocess.run([*apt, *command], env=env, stdout=subprocess.DEVNULL, check=False)
        if not installed(playwright):
            subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
        if installed(playwright):
            return 0
    print("setup: no Chromium could be installed; the tests of the dashboard need one", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
