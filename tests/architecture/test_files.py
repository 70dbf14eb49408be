"""The shape of the repository: small files, generated pages that agree with the code."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 500  # lines


def tracked(*patterns: str) -> list[Path]:
    run = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *patterns],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [path for name in run.stdout.split("\0") if name and (path := ROOT / name).exists()]


def test_no_module_has_grown_too_long() -> None:
    files = tracked("*.py")
    assert len(files) > 50
    long = {str(path.relative_to(ROOT)): size for path in files if (size := lines(path)) > LONGEST}
    assert long == {}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_generated_pages_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, "scripts/docs.py", "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, f"old: {run.stdout} (make docs writes them)\n{run.stderr}"


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), target


def test_every_dependency_is_pinned() -> None:
    pinned = {name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line.strip()}
    for project in ("pyproject.toml", "sdk/pyproject.toml"):
        table = tomllib.loads((ROOT / project).read_text())["project"]
        extras = table.get("optional-dependencies", {}).values()
        for requirement in [*table["dependencies"], *(one for extra in extras for one in extra)]:
            assert name(requirement) in pinned, requirement


def name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_no_place_of_one_machine_is_written_down() -> None:
    """The set-up has to work on a stranger's machine."""
    for path in tracked("Makefile", "scripts/*", "constraints.txt", "*.toml", "demo/*"):
        found = re.findall(r"(?:/opt|/root|/work|/home)/\S+", path.read_text(encoding="utf-8"))
        assert found == [], path
