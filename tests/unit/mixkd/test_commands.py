"""`python -m mixkd`: every command but `run`, which has its own tests, as `estimate` and `predict` have."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from mixkd.__main__ import main
from mixkd.cli.parser import parser
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.spec import DistilSpec, RunSpec
from mixkd.reporter import Reporter
from mixkd.run import run

MakeSpec = Callable[..., RunSpec]
ROOT = Path(__file__).resolve().parents[3]
QUICK = {
    "student": {"layers": 2},
    "distil": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3},
    "max_length": 16,
}


@pytest.fixture
def spec_file(make_spec: MakeSpec, tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        path = tmp_path / "spec.json"
        path.write_text(make_spec(**changes).model_dump_json())
        return path

    return write


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "command", [[], ["run"], ["validate"], ["estimate"], ["evaluate"], ["predict"], ["export"]]
)
def test_help_needs_no_torch(command: list[str]) -> None:
    code = (
        "import sys; from mixkd.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("usage: python -m mixkd")


def test_every_command_has_a_place_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    [commands] = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(re.findall(r"^## `(\w+)", page, re.MULTILINE)) == commands.choices.keys()
    for name, command in commands.choices.items():
        section = re.search(rf"^## `{name}.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section is not None
        flags = {flag for action in command._actions for flag in action.option_strings} - {"-h", "--help"}
        assert set(re.findall(r"^\| `(--[\w-]+)", section[0], re.MULTILINE)) == flags, name


def test_a_typo_in_the_spec_is_refused_by_name(spec_file: Callable[..., Path]) -> None:
    path = spec_file()
    spec = json.loads(path.read_text())
    spec["recipe"]["epocs"] = 3
    path.write_text(json.dumps(spec))
    out = subprocess.run(
        [sys.executable, "-m", "mixkd", "validate", str(path)], capture_output=True, text=True, check=False
    )
    assert out.returncode == 1
    assert out.stderr.startswith("recipe.epocs: ")


def test_paths_in_a_spec_start_at_its_folder_and_validating_needs_no_torch(
    spec_file: Callable[..., Path], encoder_folder: Path
) -> None:
    path = spec_file()
    spec = json.loads(path.read_text())
    spec["teacher"] = os.path.relpath(encoder_folder, path.parent)
    spec["data"]["files"] = {
        split: os.path.relpath(file, path.parent) for split, file in spec["data"]["files"].items()
    }
    path.write_text(json.dumps(spec))
    code = (
        "import sys; from mixkd.__main__ import main; code = main(sys.argv[1:]);"
        "assert not {'torch', 'transformers'} & set(sys.modules); sys.exit(code)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, "validate", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        cwd="/",
    )
    assert out.returncode == 0, out.stderr
    assert '"layers":4' in out.stdout


def test_what_a_run_is_about_is_one_json_object(
    spec_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(spec_file())]) == 0
    [found] = lines_of(capsys)
    assert found["teacher"]["layers"] == 4
    assert found["data"]["splits"]["train"]["rows"] == 61


def test_on_a_terminal_it_is_a_table(
    spec_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["validate", str(spec_file())]) == 0
    assert "no classification head" in capsys.readouterr().out
    assert main(["validate", str(spec_file()), "--json"]) == 0
    assert len(lines_of(capsys)) == 1


def test_everything_that_is_wrong_is_said_on_a_line_each(
    spec_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(spec_file(student={"layers": 9}, max_length=64))]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "recipe.student.layers: the teacher has 4 layers (choose 1 to 4)",
        "recipe.max_length: the teacher reads at most 32 tokens (choose 4 to 32)",
    ]


@pytest.fixture
def learned(classifier_folder: Path, data: DataSpec, tmp_path: Path) -> Path:
    """A model that knows the colours, and a class that is nowhere."""
    spec = RunSpec(teacher=classifier_folder, data=data)
    spec = spec.model_copy(update={"recipe": DistilSpec.model_validate(QUICK)})
    (tmp_path / "run").mkdir()
    run(spec, tmp_path / "run", Reporter(lambda _message: None), "cpu")
    return tmp_path / "run"


def test_a_model_scores_as_its_report_says(
    learned: Path, data: DataSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((learned / "report.json").read_text())
    assert (
        main(["evaluate", str(learned / "student"), str(learned / "resolved.json"), "--device", "cpu"]) == 0
    )
    [found] = lines_of(capsys)
    assert set(found["sets"]) == {"validation", "test"}
    for name, scores in found["sets"].items():
        told = report["sets"][name]["student"]
        assert scores["metrics"] == told["scores"]
        assert scores["loss"] == pytest.approx(told["loss"])
    # The same rows, by flags; and one set of several.
    student, file = str(learned / "student"), str(data.files["test"])
    assert main(["evaluate", student, "--data", file, "--max-length", "16", "--device", "cpu"]) == 0
    assert (
        main(["evaluate", student, str(learned / "resolved.json"), "--set", "test", "--device", "cpu"]) == 0
    )
    by_flags, by_spec = lines_of(capsys)
    assert by_flags == by_spec
    assert by_flags["sets"]["test"] == found["sets"]["test"]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ([], "data: no labelled texts are named"),
        (["SPEC", "--glue", "sst2"], "data: named twice, as spec and as glue"),
        (["SPEC", "--folder", "."], "folder: it goes with --glue"),
        (["--glue", "sst3"], "data.glue: there is no such task in GLUE"),
        (["--data", "none.jsonl"], "files.test: there is no such file"),
        (["--data", "DATA", "--text", ""], "columns.text: "),
        (["--data", "DATA", "--task", "regression"], "data.task: the model is for a single_label task"),
        (["SPEC", "--set", "dev"], "set: the data has no such set (choose from train, validation, test)"),
        (["SPEC", "--max-length", "33"], "max_length: the model reads at most 32 tokens"),
        (["SPEC", "--device", "cuda:99"], "device: there is no device"),
    ],
)
def test_what_evaluate_cannot_do_is_refused_in_one_line(  # noqa: PLR0917 - a fixture each
    spec_file: Callable[..., Path],
    classifier_folder: Path,
    data: DataSpec,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    problem: str,
) -> None:
    names = {"SPEC": str(spec_file()), "DATA": str(data.files["test"])}
    assert main(["evaluate", str(classifier_folder), *(names.get(flag, flag) for flag in flags)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith(problem)


def test_a_label_that_the_model_does_not_know_is_refused(
    classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "red", "label": "rde"}\n')
    assert main(["evaluate", str(classifier_folder), "--data", str(tmp_path / "data.jsonl")]) == 1
    assert "line 1" in capsys.readouterr().err


def test_a_model_is_written_anew(
    classifier_folder: Path, classifier: PreTrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "copy"
    assert main(["export", str(classifier_folder), "--dir", str(out)]) == 0
    [found] = lines_of(capsys)
    assert found["files"] == {path.name: path.stat().st_size for path in out.iterdir()}
    copy = AutoModelForSequenceClassification.from_pretrained(out)
    for name, weight in classifier.state_dict().items():
        assert torch.equal(weight, copy.state_dict()[name])


def test_onnx_is_checked_on_rows_of_the_data(
    classifier_folder: Path, data: DataSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(classifier_folder), "--dir", str(tmp_path / "copy"), "--onnx"]
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("data: no labelled texts are named")
    assert main([*command, "--data", str(data.files["test"])]) == 0
    [found] = lines_of(capsys)
    assert (tmp_path / "copy" / "onnx" / "model.onnx").is_file()
    assert found["onnx"][0]["check"]["rows"] == 13


def test_export_does_not_replace_what_is_no_model(
    classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["export", str(classifier_folder), "--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("dir: it is there and is not a model's folder")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
