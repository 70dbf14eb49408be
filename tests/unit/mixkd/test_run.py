"""Whole runs on tiny models: from a description to a folder that plain transformers loads."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from mixkd.contract.messages import Done, Message, Metric, PhaseStarted
from mixkd.contract.problems import RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.export.folder import weights_bytes
from mixkd.failures import DivergedError, explain
from mixkd.report.schema import Report
from mixkd.reporter import Reporter
from mixkd.run import run

MakeSpec = Callable[..., RunSpec]


def test_two_runs_give_the_same_student_to_the_bit(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(make_spec(seed=7), tmp_path / name, reporter, "cpu")
    one, two = (tmp_path / name / "student" / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_the_phases_are_told_in_order_and_the_report_says_what_was_done(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter, messages: list[Message]
) -> None:
    run(make_spec(), tmp_path, reporter, "cpu")
    phases = [m.phase for m in messages if isinstance(m, PhaseStarted)]
    assert phases == ["prepare", "teach", "distil", "evaluate", "export"]
    assert messages[-1] == Done()
    files = ["README.md", "curves", "report.json", "resolved.json", "student"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files

    report = Report.model_validate_json((tmp_path / "report.json").read_bytes())
    assert (report.teacher.layers, report.student.layers) == (4, 2)
    assert report.student.parameters < report.teacher.parameters
    assert report.student.bytes == (tmp_path / "student" / "model.safetensors").stat().st_size
    assert report.data.labels == ["blue", "green", "red"]
    assert report.judged_on == "test"
    assert set(report.sets) == {"validation", "test"}
    assert report.data.sets.rows == {"train": 61, "validation": 17, "test": 13}
    assert set(report.data.files) == {"train", "validation", "test"}
    assert {point.phase for point in report.curves} == {"teach", "distil"}
    assert report.teach is not None
    assert report.teach.steps == 16
    assert report.student.speed.examples_per_second > 0
    assert report.comparison.parameters < 1


_PLAIN = """
import json, sys
from transformers import pipeline
classify = pipeline("text-classification", model=sys.argv[1], device="cpu", top_k=None)
print(json.dumps(classify(["word1 red word2", "a much longer text " * 100 + "blue"], truncation=True)))
assert not [name for name in sys.modules if name.split(".")[0] == "mixkd"]
"""


def test_the_exported_folder_loads_in_another_process_with_plain_transformers(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    run(make_spec(), tmp_path, reporter, "cpu")
    out = subprocess.run(
        [sys.executable, "-c", _PLAIN, str(tmp_path / "student")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    answers = json.loads(out.stdout.splitlines()[-1])
    assert {score["label"] for score in answers[0]} == {"red", "green", "blue"}
    files = {path.name: path.read_bytes() for path in (tmp_path / "student").rglob("*") if path.is_file()}
    assert set(files) >= {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    tokenizer = json.loads(files["tokenizer.json"])
    assert (tokenizer["padding"], tokenizer["truncation"]) == (None, None)  # neither was asked for by anyone
    assert json.loads(files["tokenizer_config.json"])["model_max_length"] == 16  # as long as in training
    assert "local_files_only" not in json.loads(files["tokenizer_config.json"])
    here = str(tmp_path.parent).encode()
    assert not [name for name, content in files.items() if here in content or b"/tmp" in content]


def test_a_teacher_with_a_head_is_used_as_it_came_by_the_names_of_its_labels(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    report = run(make_spec(teacher=classifier_folder), tmp_path, reporter, "cpu")
    assert report.teach is None
    assert report.data.labels == ["none", "blue", "green", "red"]
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["id2label"] == {"0": "none", "1": "blue", "2": "green", "3": "red"}


def test_always_gives_the_teacher_a_new_head_for_the_labels_of_the_data(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    teach = {"when": "always", "epochs": 1, "batch_size": 8}
    report = run(make_spec(teacher=classifier_folder, teach=teach), tmp_path, reporter, "cpu")
    assert report.teach is not None
    assert report.data.labels == ["blue", "green", "red"]
    assert len(load_file(tmp_path / "student" / "model.safetensors")["classifier.bias"]) == 3


def test_a_new_head_is_new_even_where_the_old_one_would_fit(classifier_folder: Path) -> None:
    from mixkd.teacher import load_teacher, load_with_new_head

    old = load_teacher(classifier_folder)
    new = load_with_new_head(classifier_folder, ["a", "b", "c", "d"], "single_label")
    assert not torch.equal(old.classifier.weight, new.classifier.weight)
    assert torch.equal(old.bert.pooler.dense.weight, new.bert.pooler.dense.weight)
    assert new.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}


def test_a_teacher_that_is_used_as_it_came_is_evaluated_before_its_student_is_trained(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter, messages: list[Message]
) -> None:
    report = run(make_spec(teacher=classifier_folder), tmp_path, reporter, "cpu")
    assert report.teach is None
    (shown,) = [m for m in messages if isinstance(m, Metric) and m.phase == "teach"]
    assert shown.values["validation_accuracy"] == report.sets["validation"].teacher.scores["accuracy"].value
    first = next(n for n, m in enumerate(messages) if isinstance(m, PhaseStarted) and m.phase == "distil")
    assert messages.index(shown) < first


def test_a_teacher_with_nan_weights_diverges_and_nothing_is_exported(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in classifier_folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["bert.encoder.layer.3.output.dense.weight"][0, 0] = float("nan")  # a layer the student has not
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DivergedError) as caught:
        run(make_spec(teacher=broken), out, reporter, "cpu")
    assert (caught.value.phase, caught.value.step) == ("distil", 1)
    assert not (out / "student").exists()
    assert not (out / "report.json").exists()


def test_an_absurd_learning_rate_diverges(make_spec: MakeSpec, tmp_path: Path, reporter: Reporter) -> None:
    teach = {"epochs": 5, "batch_size": 8, "learning_rate": 1e30, "warmup_ratio": 0}
    with pytest.raises(DivergedError) as caught:
        run(make_spec(teach=teach), tmp_path, reporter, "cpu")
    assert explain(caught.value).field == "recipe.teach.learning_rate"


def test_more_layers_than_the_teacher_has_are_refused_before_anything_is_loaded(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    with pytest.raises(RefusedError, match="4 layers"):
        run(make_spec(student={"layers": 5}), tmp_path, reporter, "cpu")


def test_weights_that_are_missing_are_refused(
    make_spec: MakeSpec, encoder_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    for file in encoder_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedError):
        run(make_spec(teacher=tmp_path), tmp_path, reporter, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"intermediate_size": 48},  # tensors of another shape would be filled in at random
        {"type_vocab_size": 7},
        {"num_attention_heads": 0},  # makes the library divide by zero
        {"dtype": "float99"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_that_does_not_belong_to_the_weights_is_refused(
    make_spec: MakeSpec,
    classifier_folder: Path,
    tmp_path: Path,
    reporter: Reporter,
    change: dict[str, object],
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(classifier_folder, teacher)
    config = json.loads((teacher / "config.json").read_text()) | change
    (teacher / "config.json").write_text(json.dumps(config))
    for when in ("always", "never"):
        with pytest.raises(RefusedError) as caught:
            run(make_spec(teacher=teacher, teach={"when": when}), tmp_path, reporter, "cpu")
        assert caught.value.problems[0].field == "teacher"


def test_a_tokeniser_of_another_model_is_refused(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(classifier_folder, teacher)
    weights = load_file(teacher / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    weights[name] = weights[name][:5].clone()  # the special tokens only
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((teacher / "config.json").read_text()) | {"vocab_size": 5}
    (teacher / "config.json").write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="tokeniser"):
        run(make_spec(teacher=teacher), tmp_path, reporter, "cpu")


def test_an_encoder_that_was_published_without_its_pooler_gets_a_new_one(
    make_spec: MakeSpec, encoder_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    for file in encoder_folder.iterdir():
        (teacher / file.name).write_bytes(file.read_bytes())
    weights = {n: w for n, w in load_file(teacher / "model.safetensors").items() if "pooler" not in n}
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(make_spec(teacher=teacher), tmp_path / name, reporter, "cpu")
    one, two = (load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two"))
    assert torch.equal(one["bert.pooler.dense.weight"], two["bert.pooler.dense.weight"])  # drawn by the seed


def test_a_second_run_replaces_the_first_ones_student(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter
) -> None:
    run(make_spec(), tmp_path, reporter, "cpu")
    (tmp_path / "student" / "stale").touch()
    run(make_spec(seed=9), tmp_path, reporter, "cpu")
    assert not (tmp_path / "student" / "stale").exists()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert weights_bytes(model) == (tmp_path / "student" / "model.safetensors").stat().st_size


@pytest.mark.parametrize("name", ["student", "curves", "checkpoints", "README.md"])
def test_what_somebody_else_has_in_the_folder_is_not_written_over(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter, name: str
) -> None:
    mine = tmp_path / name / "thesis.txt" if name != "README.md" else tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("my own")
    with pytest.raises(RefusedError) as caught:
        run(make_spec(), tmp_path, reporter, "cpu")
    assert caught.value.problems[0].field == "dir"
    assert mine.read_text() == "my own"


def test_a_run_does_not_replace_its_own_teacher(
    make_spec: MakeSpec, classifier_folder: Path, tmp_path: Path, reporter: Reporter
) -> None:
    shutil.copytree(classifier_folder, tmp_path / "student")
    (tmp_path / "resolved.json").write_text("{}")
    with pytest.raises(RefusedError, match="own teacher"):
        run(make_spec(teacher=tmp_path / "student"), tmp_path, reporter, "cpu")


@pytest.mark.parametrize("device", ["cuda:99", "meta", "mps", "nonsense"])
def test_a_device_that_is_not_there_or_of_no_use_is_refused(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter, device: str
) -> None:
    with pytest.raises(RefusedError, match=device) as caught:
        run(make_spec(), tmp_path, reporter, device)
    assert caught.value.problems[0].field == "device"


@pytest.mark.parametrize("name", ["resolved.json", "report.json", "README.md"])
def test_a_folder_where_a_file_belongs_is_refused(
    make_spec: MakeSpec, tmp_path: Path, reporter: Reporter, name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RefusedError, match=name) as caught:
        run(make_spec(), tmp_path, reporter, "cpu")
    assert caught.value.problems[0].field == "dir"
