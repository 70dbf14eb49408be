"""`python -m benchmarks.pages`: every page of the dashboard, looked at and timed in a real browser.

The demonstration's service runs real jobs: one that has succeeded beside a baseline, one that has failed, one
that trains, some that wait. Each page is pictured in both themes and two widths; timed (median of five loads
over loopback, the server's cache warm, the browser's empty); weighed (what it loads, as gzip sends it); and
examined by axe. Prints a table and keeps it, with the pictures, in the folder that `--out` names.

Yardstick: `/healthz`, the cheapest answer that the same server has, in the same browser.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, Page

from demo import materials, service
from demo.browser import chromium
from mixkd_client import Client, JobFailed

THEMES = ("light", "dark")
WIDTHS = {"wide": {"width": 1280, "height": 860}, "phone": {"width": 390, "height": 844}}
LOADS = 5
AXE = Path("build/npm/node_modules/axe-core/axe.min.js")
RECIPE: dict[str, Any] = {
    "student": {"layers": 3},
    "teach": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4, "evaluations_per_epoch": 2},
    "distil": {"epochs": 3, "batch_size": 32, "learning_rate": 1e-4, "evaluations_per_epoch": 2},
    "max_length": 32,
    "train_examples": 2000,
}


@dataclass(frozen=True)
class Timing:
    """How long one load of a page took, in ms, and what it weighed, in bytes as sent."""

    first_paint: float
    loaded: float
    script: int
    total: int


def main() -> int:
    """Start the service, fill it, look at its pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    parser.add_argument("--picture", type=Path, help="where to keep the picture of the training job too")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    data_dir = out / "data"
    if data_dir.exists():
        service.clear(data_dir)
    teacher = materials.minilm()
    with service.running(data_dir, out / "service.log", teacher) as (url, key), Client(url, key) as client:
        places = fill(client, teacher)
        with chromium() as browser:
            table = [*report(browser, url, key, places, out)]
    service.clear(data_dir)
    if arguments.picture:
        shutil.copy(out / "job-running-light-wide.png", arguments.picture)
    text = "\n".join(table) + "\n"
    (out / "pages.md").write_text(text)
    print(text)
    return 0


def fill(client: Client, teacher: Path) -> dict[str, str]:
    """Make something to look at; the name of each picture and the page that it is of."""
    model = client.models.wait(client.models.register("MiniLM-L6", f"path:{teacher}").id, timeout=120)
    files = materials.trec()
    data = client.datasets.upload("TREC questions", train=files["train"], validation=files["validation"])
    data = client.datasets.wait(data.id, timeout=120)
    good = client.jobs.create(
        model.id, data.id, recipe={**RECIPE, "baselines": ["kd"]}, name="3 layers, beside plain distillation"
    )
    client.jobs.wait(good.id, timeout=900)
    bad = client.jobs.create(
        model.id, data.id, recipe={**RECIPE, "teach": {"learning_rate": 1e30, "warmup_ratio": 0}},
        name="a learning rate that is absurd",
    )  # fmt: skip
    with suppress(JobFailed):
        client.jobs.wait(bad.id, timeout=300)
    long = {**RECIPE, "distil": {**RECIPE["distil"], "epochs": 40}}
    trains = client.jobs.create(model.id, data.id, recipe=long, name="MiniLM for questions")
    waits = client.jobs.create(
        model.id, data.id, recipe={"student": {"layers": 1}}, name="1 layer, if it can"
    )
    paused = client.jobs.create(model.id, data.id, recipe={"student": {"layers": 4}})
    client.jobs.pause(paused.id)
    while not any(one.phase == "distil" and one.step > 150 for one in client.jobs.metrics(trains.id)):
        time.sleep(0.5)
    return {
        "jobs": "/jobs",
        "job-running": f"/jobs/{trains.id}",
        "job-succeeded": f"/jobs/{good.id}",
        "job-failed": f"/jobs/{bad.id}",
        "job-queued": f"/jobs/{waits.id}",
        "new-job": "/jobs/new",
        "data-sets": "/datasets",
        "models": "/models",
        "workers": "/workers",
        "error": "/nowhere",
    }


def report(browser: Browser, url: str, key: str, places: dict[str, str], out: Path) -> Iterator[str]:
    """Picture, examine, time and weigh; the lines of the table."""
    findings: dict[str, list[str]] = {name: [] for name in ("sign-in", *places)}
    for theme in THEMES:
        for width, viewport in WIDTHS.items():
            with opened(browser, url, color_scheme=theme, viewport=viewport) as page:
                page.goto("/sign-in")
                findings["sign-in"] += look(page, out / f"sign-in-{theme}-{width}.png")
                sign_in(page, key)
                for name, place in places.items():
                    page.goto(place)
                    page.wait_for_timeout(1500)  # the stream brings the points of the charts
                    findings[name] += look(page, out / f"{name}-{theme}-{width}.png")
    yield "| page | first paint, ms | loaded, ms | script, kB | all, kB | axe |"
    yield "|-|-|-|-|-|-|"
    for name, place in {"yardstick": "/healthz", "sign-in": "/sign-in", **places}.items():
        loads = [load(browser, url, key, place) for _ in range(LOADS)]
        paint, loaded = median(one.first_paint for one in loads), median(one.loaded for one in loads)
        script, total = loads[0].script / 1e3, loads[0].total / 1e3
        axe = "–" if name == "yardstick" else len(findings[name]) or "nothing"
        yield f"| {name} | {paint:.0f} | {loaded:.0f} | {script:.1f} | {total:.1f} | {axe} |"
    yield ""
    yield from (f"- {name}: {one}" for name, found in findings.items() for one in found)


def look(page: Page, picture: Path) -> list[str]:
    """Keep a picture of the whole page; what axe has against it."""
    page.screenshot(path=picture, full_page=True)
    page.evaluate(AXE.read_text())
    return [one["id"] for one in page.evaluate("axe.run()")["violations"]]


def load(browser: Browser, url: str, key: str, place: str) -> Timing:
    """Load a page into an empty browser that has signed in."""
    with opened(browser, url) as page:
        sign_in(page, key)
        cookies = page.context.cookies()
    with opened(browser, url) as page:
        page.context.add_cookies(cookies)  # type: ignore[arg-type]  # it takes what it gives
        page.goto(place)
        page.wait_for_timeout(300)
        found = page.evaluate("""() => {
            const entries = performance.getEntriesByType("resource").filter((one) => one.responseEnd > 0);
            const [page] = performance.getEntriesByType("navigation");
            const sum = (some) => some.reduce((total, one) => total + one.encodedBodySize, 0);
            return {
                first_paint: performance.getEntriesByName("first-paint")[0]?.startTime ?? NaN,
                loaded: page.loadEventEnd,
                script: sum(entries.filter((one) => one.initiatorType === "script")),
                total: sum(entries) + page.encodedBodySize,
            };
        }""")
    return Timing(**found)


def sign_in(page: Page, key: str) -> None:
    """Through the form."""
    page.goto("/sign-in")
    page.fill("#key", key)
    page.click("button")
    page.wait_for_url("**/jobs")


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page of a browser that knows nothing."""
    context = browser.new_context(base_url=url, **options)
    try:
        yield context.new_page()
    finally:
        context.close()


if __name__ == "__main__":
    sys.exit(main())
