"""`python -m mixkd`: every command but `run`, which has its own tests, as `estimate` and `predict` have."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertTokenizer, PreTrainedModel

from mixkd.__main__ import main
from mixkd.classifier import labels_of
from mixkd.cli import export as export_command
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.rows import read_rows
from mixkd.contract.spec import RunSpec
from mixkd.data import encode
from mixkd.evaluate import answers
from mixkd.export.folder import export
from mixkd.export.onnx_check import OnnxCard
from mixkd.randomness import generator
from mixkd.report.judgement import judge_set

MakeSpec = Callable[..., RunSpec]
CPU = torch.device("cpu")


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


def test_scores_are_those_of_a_report_card(  # noqa: PLR0917 - a fixture each
    classifier_folder: Path,
    classifier: PreTrainedModel,
    data: DataSpec,
    spec_file: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same intervals too: both draw the same resamples, if the run's seed is 0."""
    tokenizer = BertTokenizer.from_pretrained(classifier_folder)
    sets = {
        name: encode(
            list(read_rows(data.files[name], data)), tokenizer, "single_label", labels_of(classifier), 16
        )
        for name in ("validation", "test")
    }
    # A random model finds one class the likeliest everywhere: here none is so on average.
    classifier.classifier.bias.data -= torch.from_numpy(answers(classifier, sets["test"], CPU).mean(0))
    export(classifier, tokenizer, tmp_path / "model")

    command = ["evaluate", str(tmp_path / "model"), "--device", "cpu"]
    assert main([*command, str(spec_file())]) == 0
    [found] = lines_of(capsys)
    assert set(found["sets"]) == set(sets)
    for name, rows in sets.items():
        given = dict.fromkeys(("teacher", "student"), answers(classifier, rows, CPU))
        targets, rng = rows.targets_of(np.arange(len(rows))), generator(0, "bootstrap", name)
        card, _ = judge_set(given, targets, "single_label", data.scored_by, labels_of(classifier), rng=rng)
        assert card.student.scores["macro_f1"].low < card.student.scores["macro_f1"].high
        assert found["sets"][name] == {
            "rows": len(rows),
            "metrics": card.student.model_dump()["scores"],
            "loss": pytest.approx(card.student.loss),
        }

    # The same rows, by flags; and one set of several.
    assert main([*command, str(data.files["test"]), "--max-length", "16"]) == 0
    assert main([*command, str(spec_file()), "--set", "test"]) == 0
    by_flags, by_spec = lines_of(capsys)
    assert by_flags == by_spec
    assert by_flags["sets"] == {"test": found["sets"]["test"]}


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["SPEC", "--label", "label"], "label: it is for a file of texts, and this is none"),
        (["none.json"], "spec: cannot be read: No such file or directory"),
        (["none.jsonl"], "files.test: there is no such file"),
        ([".", "--glue", "sst3"], "data.glue: there is no such task in GLUE"),
        ([".", "--glue", "sst2"], "data.folder: the files of sst2 are not there"),
        (["DATA", "--text", ""], "columns.text: "),
        (["DATA", "--task", "regression"], "data.task: the model is for a single_label task"),
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
    assert main(["evaluate", str(classifier_folder), str(tmp_path / "data.jsonl")]) == 1
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
    copy = str(tmp_path / "copy")
    assert main(["export", str(classifier_folder), "--dir", copy, "--onnx", str(data.files["test"])]) == 0
    [found] = lines_of(capsys)
    assert (tmp_path / "copy" / "onnx" / "model.onnx").is_file()
    assert found["onnx"][0]["check"]["rows"] == 13


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_replaces_what_an_earlier_one_wrote_and_nothing_else(
    classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["export", str(classifier_folder), "--dir", str(out)]
    assert main(command) == 0
    assert main(command) == 0
    capsys.readouterr()

    def is_refused(problem: str) -> None:
        before = contents(tmp_path)
        assert main(command) == 1
        assert capsys.readouterr().err.startswith(f"dir: {problem}")
        assert contents(tmp_path) == before

    others = "it holds more or other files than an earlier export wrote"
    (out / "thesis.tex").write_text("years of work")
    is_refused(others)
    (out / "thesis.tex").unlink()
    (out / "config.json").write_text((out / "config.json").read_text() + " ")  # somebody went on from it
    is_refused(others)
    (out / "export.json").write_text('{"sha256": "of another tool"}')
    is_refused(others)
    shutil.rmtree(out)
    shutil.copytree(classifier_folder, out)  # a model, but no export
    is_refused(others)
    command[1] = str(out)
    is_refused("MODEL lies in it")


def test_an_export_without_a_good_onnx_file_leaves_the_earlier_one(
    classifier_folder: Path,
    data: DataSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["export", str(classifier_folder), "--dir", str(tmp_path / "copy")]
    assert main(command) == 0
    before = contents(tmp_path)
    bad = [OnnxCard(variant="fp32", kept=False, reason="it answers otherwise")]
    monkeypatch.setattr(export_command, "export_onnx", lambda *_, **__: bad)
    assert main([*command, "--onnx", str(data.files["test"])]) == 1
    assert capsys.readouterr().err.startswith("onnx: no file is good. fp32: it answers otherwise (")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("predict MODEL - --format csv --text a", "--format, --text: it is for a file"),
        ("export MODEL --dir DIR --glue sst2 --set test", "--glue, --set: it is for the data of --onnx"),
        ("export MODEL --dir DIR --max-length 16", "--max-length: it is for the data of --onnx"),
        ("evaluate MODEL DATA --max-length 0", "argument --max-length: '0' is not a number of at least 4"),
        ("run SPEC --dir DIR --pipe 9999999", "argument --pipe: '9999999' is not a descriptor that is open"),
        ("run SPEC --dir DIR --pipe -1", "argument --pipe: '-1' is not a descriptor that is open"),
    ],
)
def test_a_flag_that_would_do_nothing_is_an_error_of_the_command_line(
    capsys: pytest.CaptureFixture[str], line: str, problem: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert f"{line.split(maxsplit=1)[0]}: error: {problem}" in capsys.readouterr().err


def test_a_problem_with_the_data_is_named_as_in_the_spec(
    spec_file: Callable[..., Path], classifier_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service calls it `dataset_id`; the classifier knows other labels than this data."""
    path = spec_file(teacher=classifier_folder)
    spec = json.loads(path.read_text())
    data = path.with_name("other.jsonl")
    data.write_text("".join(f'{{"text": "word{n}", "label": "l{n % 2}"}}\n' for n in range(20)))
    spec["data"]["files"] = {"train": str(data)}
    path.write_text(json.dumps(spec))
    assert main(["validate", str(path)]) == 1
    assert capsys.readouterr().err.startswith("data: labels that the teacher does not know")


def test_a_label_does_not_command_the_terminal(
    spec_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spec_file()
    spec = json.loads(path.read_text())
    data = path.with_name("other.jsonl")
    labels = ("red\x1b[2J", "\u202eder")
    rows = [{"text": f"word{n}", "label": labels[n % 2]} for n in range(20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec["data"]["files"] = {"train": str(data)}
    path.write_text(json.dumps(spec))
    assert main(["validate", str(path)]) == 0
    as_json = capsys.readouterr().out
    assert set(json.loads(as_json)["data"]["labels"]) == set(labels)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["validate", str(path)]) == 0
    for said in (as_json, capsys.readouterr().out):
        assert "red\\u001b[2J" in said
        assert "\\u202eder" in said
        assert "\x1b[2J" not in said
        assert "\u202e" not in said
