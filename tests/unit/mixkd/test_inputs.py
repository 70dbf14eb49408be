"""The run's description: what its paths start at, GLUE by name, and that everything it names is checked."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixkd.contract.augment_spec import BackTranslation, Unlabelled
from mixkd.contract.data_spec import DataSpec
from mixkd.contract.problems import Problem, RefusedError
from mixkd.inputs import check, read_spec


def write(folder: Path, **given: object) -> Path:
    path = folder / "spec.json"
    path.write_text(json.dumps(given))
    return path


def refusal(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(RefusedError) as caught:
        check(read_spec(path))
    return caught.value.problems


def test_every_relative_path_starts_at_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    write(
        folder,
        teacher="../teacher",
        student="small",
        data={"files": {"train": "train.jsonl", "hard": "/data/hard.jsonl"}},
        augment=[
            {"kind": "back_translation", "forward": "en-de", "backward": "de-en"},
            {"kind": "unlabelled", "file": "more.jsonl"},
        ],
    )
    monkeypatch.chdir(tmp_path)
    spec = read_spec(Path("runs/spec.json"))
    assert spec.teacher.resolve() == tmp_path / "teacher"
    assert spec.student == folder / "small"
    assert spec.data.files == {"train": folder / "train.jsonl", "hard": Path("/data/hard.jsonl")}
    translation, unlabelled = spec.augment
    assert isinstance(translation, BackTranslation)
    assert (translation.forward, translation.backward) == (folder / "en-de", folder / "de-en")
    assert isinstance(unlabelled, Unlabelled)
    assert unlabelled.file == folder / "more.jsonl"


def test_paths_of_a_link_to_a_spec_start_where_the_link_lies(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "runs").mkdir()
    path = write(tmp_path / "store", teacher="teacher", data={"files": {"train": "train.jsonl"}})
    (tmp_path / "runs" / "spec.json").symlink_to(path)
    spec = read_spec(tmp_path / "runs" / "spec.json")
    assert (spec.teacher, spec.data.files["train"]) == (
        tmp_path / "runs" / "teacher", tmp_path / "runs" / "train.jsonl"
    )  # fmt: skip


def test_a_glue_task_stands_for_its_data(tmp_path: Path) -> None:
    (tmp_path / "glue" / "RTE").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / "glue" / "RTE" / f"{name}.tsv").touch()
    spec = read_spec(write(tmp_path, teacher="t", data={"glue": "rte", "folder": "glue/RTE"}))
    assert spec.data.files["validation"] == tmp_path / "glue" / "RTE" / "dev.tsv"
    assert (spec.data.labels, spec.data.format) == (("entailment", "not_entailment"), "tsv")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"glue": "sst2", "folder": "nowhere"}, "data.folder"),
        ({"glue": "sst2"}, "data.folder"),
        ({"glue": "imdb", "folder": "."}, "data.glue"),
        ({"glue": ["sst2"], "folder": "."}, "data.glue"),
        ({"glue": "sst2", "folder": ".", "labels": ["a", "b"]}, "data.labels"),
    ],
)
def test_a_glue_task_that_cannot_be_read_is_refused(
    tmp_path: Path, data: dict[str, object], field: str
) -> None:
    (problem,) = refusal(write(tmp_path, teacher="t", data=data))
    assert problem.field == field


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"teacher": "t"}', '{"teacher": "t", "data": 3}'])
def test_what_is_no_description_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "spec.json").write_text(content)
    assert refusal(tmp_path / "spec.json")
    (problem,) = refusal(tmp_path / "other.json")
    assert problem.field == "spec"


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    found = refusal(
        write(
            tmp_path,
            teacher="no-teacher",
            student="no-student",
            data={"files": {"train": "train.jsonl", "test": "test.jsonl"}},
            augment=[
                {"kind": "unlabelled", "file": "more.jsonl"},
                {"kind": "back_translation", "forward": "en-de", "backward": "."},
            ],
        )
    )
    assert [problem.field for problem in found] == [
        "augment.0.file", "augment.1.forward", "teacher", "student", "files.train", "files.test"
    ]  # fmt: skip


def test_a_file_of_a_model_is_named_with_its_folder(
    tmp_path: Path, data: DataSpec, encoder_folder: Path
) -> None:
    (tmp_path / "student").mkdir()
    given: dict[str, Any] = {
        "teacher": str(encoder_folder),
        "student": "student",
        "data": data.model_dump(mode="json"),
        "recipe": {"student": {"init": "model"}, "max_length": 16},
    }
    (problem,) = refusal(write(tmp_path, **given))
    assert problem.field == "student/config.json"
    (problem,) = refusal(write(tmp_path, **{**given, "student": None}))
    assert problem.field == "recipe.student.init"

    given["student"] = str(encoder_folder)
    teacher, report = check(read_spec(write(tmp_path, **given)))
    assert (teacher.layers, report.labels) == (4, ["blue", "green", "red"])


def test_the_metrics_of_the_data_must_fit_its_labels(
    tmp_path: Path, data: DataSpec, encoder_folder: Path
) -> None:
    described = data.model_dump(mode="json") | {"metrics": ["f1"]}
    (problem,) = refusal(
        write(tmp_path, teacher=str(encoder_folder), data=described, recipe={"max_length": 16})
    )
    assert problem.field == "data"
    assert "`f1`" in problem.problem


@pytest.mark.parametrize("name", ["x\0y", "x" * 300])
def test_a_name_that_no_file_can_have_is_a_missing_file(
    tmp_path: Path, data: DataSpec, encoder_folder: Path, name: str
) -> None:
    described = data.model_dump(mode="json")
    described["files"]["test"] = name
    fields = {
        problem.field
        for problem in refusal(write(tmp_path, teacher=name, data=described, recipe={"max_length": 16}))
    }
    assert fields == {"teacher", "files.test"}


def test_an_option_that_would_do_nothing_is_refused(
    tmp_path: Path, data: DataSpec, encoder_folder: Path
) -> None:
    recipe = {"max_length": 16, "student": {"layers": [0, 1], "pick": "even"}}
    described = data.model_dump(mode="json")
    (problem,) = refusal(write(tmp_path, teacher=str(encoder_folder), data=described, recipe=recipe))
    assert problem.field == "recipe.student"
    assert "`pick`" in problem.problem
