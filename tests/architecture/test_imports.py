"""Who imports whom, and what importing does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "core", "worker", "mixkd", "mixkd_client")
HEAVY = ("torch", "transformers", "numpy", "tokenizers", "safetensors")

LOAD = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def modules(package: str) -> list[str]:
    """Every module of a package, by its file; `__main__` too: importing it must not start anything."""
    root = ROOT / "sdk" / "src" if package == "mixkd_client" else ROOT
    found = []
    for path in sorted((root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def answer(*arguments: str | Path) -> list[str]:
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    found: list[str] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("package", ["api", "core", "worker", "mixkd.contract"])
def test_torch_is_never_loaded_outside_the_trainer(package: str) -> None:
    names = [name for name in modules(package.partition(".")[0]) if name.startswith(package)]
    assert len(names) > 3
    loaded = {name.partition(".")[0] for name in answer("-c", LOAD, *names)}
    assert loaded.isdisjoint(HEAVY)


def test_this_would_be_noticed() -> None:
    assert "torch" in answer("-c", LOAD, "mixkd.training.loop")


def test_the_training_library_itself_loads_lazily() -> None:
    assert {name.partition(".")[0] for name in answer("-c", LOAD, "mixkd")}.isdisjoint(HEAVY)


def test_importing_does_nothing() -> None:
    """No file written, no connection, no child, no thread, no logging, no signal handler."""
    names = [name for package in PACKAGES for name in modules(package)]
    assert len(names) > 80
    assert answer(ROOT / "tests" / "support" / "watch_imports.py", *names) == []


def test_the_rules_of_import_linter_hold() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stdout
