"""The set-up's decisions: which Python, which PyTorch, and when nothing need be done; then what make runs."""

import os
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))  # as when Python starts the script itself
        yield runpy.run_path(str(ROOT / "scripts" / "environment.py"))


@pytest.mark.parametrize(
    ("setting", "driver", "build"),
    [
        (None, False, "cpu"),
        ("", False, "cpu"),
        (None, True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda", False, "cuda"),
    ],
)
def test_the_setting_decides_and_otherwise_the_driver(
    environment: dict[str, Any], setting: str | None, driver: bool, build: str
) -> None:
    assert environment["torch_build"](setting, driver=driver) == build


def test_a_misspelt_setting_is_refused(environment: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="must be cpu or cuda"):
        environment["torch_build"]("gpu", driver=True)


def test_the_cpu_build_comes_from_configured_sources_where_they_have_it(environment: dict[str, Any]) -> None:
    assert environment["torch_arguments"]("2.13.0", "cpu", lambda _: True) == ["torch==2.13.0+cpu"]


def test_the_cpu_build_comes_from_pytorchs_cpu_index_otherwise(environment: dict[str, Any]) -> None:
    assert environment["torch_arguments"]("2.13.0", "cpu", lambda _: False) == [
        "torch==2.13.0+cpu",
        "--index-url",
        "https://download.pytorch.org/whl/cpu",
    ]


def test_the_cuda_build_is_never_a_cpu_build_that_lies_about(environment: dict[str, Any]) -> None:
    from packaging.requirements import Requirement

    (argument,) = environment["torch_arguments"]("2.13.0", "cuda", lambda _: True)
    specifier = Requirement(argument).specifier
    assert "2.13.0" in specifier
    assert "2.13.0+cpu" not in specifier


def test_without_a_usable_python_the_set_up_says_what_to_install() -> None:
    run = subprocess.run(
        [ROOT / "scripts" / "setup"],
        env={"PATH": os.environ["PATH"], "PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "needs Python 3.11, 3.12 or 3.13" in run.stderr
    assert "/bin/false" in run.stderr


def test_a_stamp_that_cannot_be_read_counts_as_none(
    environment: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(environment["found"].__globals__, "STAMP", tmp_path / "stamp.json")
    assert environment["found"]() == {}
    (tmp_path / "stamp.json").write_text("")
    assert environment["found"]() == {}


def test_a_stamp_is_never_half_written(
    environment: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(environment["stamp"].__globals__, "STAMP", tmp_path / "stamp.json")
    environment["stamp"]({"build": "cpu"})
    with (tmp_path / "stamp.json").open() as before:
        environment["stamp"]({"build": "cuda"})
        assert before.read() == '{"build": "cpu"}', "what is there is replaced, not written over"
    assert environment["found"]() == {"build": "cuda"}


def test_make_up_takes_a_folder_with_a_space_in_its_name() -> None:
    run = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "up", "DATA=my data"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    command = shlex.split(run.stdout.splitlines()[-1])
    assert command[command.index("--data-dir") + 1] == "my data"
