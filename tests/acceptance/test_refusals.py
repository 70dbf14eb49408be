"""Bad input is refused when it is submitted: a clear reason, nothing stored, no worker touched."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mixkd_client import Client, InvalidInput, Unauthenticated
from tests.support.stack import Stack
from tests.support.words import WORDS, make_teacher, write

ROWS: list[dict[str, Any]] = [
    {"text": word, "label": label} for label, group in WORDS.items() for word in group
]


@pytest.fixture(autouse=True)
def _nothing_is_stored(stack: Stack, client: Client, teacher_id: str, dataset_id: str) -> Iterator[None]:
    """Everything that the service lists or keeps is after the test what it was before."""

    def kept() -> object:
        storage = stack.data_dir / "storage"
        return (
            {path for path in storage.rglob("*") if path.is_file()},
            [dataset.id for dataset in client.datasets.list()],
            [job.id for job in client.jobs.list()],
            [model.id for model in client.models.list() if model.status != "refused"],
        )

    before = kept()
    yield
    assert kept() == before


def fields(refusal: InvalidInput) -> set[str]:
    for problem in refusal.errors:
        assert problem.problem
        assert problem.remedy
    return {problem.field for problem in refusal.errors}


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer mixkd_wrong"}, {"Authorization": "Basic x"}]
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets", "/v1/models"])
def test_without_a_valid_key_nothing_is_answered(stack: Stack, headers: dict[str, str], path: str) -> None:
    for answer in (
        httpx.get(stack.url + path, headers=headers),
        httpx.post(stack.url + path, headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "unauthenticated"
        assert "www-authenticate" in answer.headers


# --- data sets -----------------------------------------------------------------------------------------


def test_an_unknown_form_field_is_a_typo(stack: Stack, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ROWS)
    answer = httpx.post(
        f"{stack.url}/v1/datasets",
        headers={"Authorization": f"Bearer {stack.key}"},
        data={"name": "n", "format": "jsonl", "column": "{}"},
        files={"train": train.read_bytes()},
    )
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["column"]


def test_a_missing_column_is_named(client: Client, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(InvalidInput, match="sentiment") as refusal:
        client.datasets.upload("n", train=train, columns={"text": "text", "label": "sentiment"})
    assert fields(refusal.value)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row | {"label": "animal"} for row in ROWS], "label"),
        ([], "row"),
        ([*ROWS, {"text": "", "label": "animal"}], f"{len(ROWS) + 1}"),
        ([*ROWS, {"text": 7, "label": "animal"}], f"{len(ROWS) + 1}"),
    ],
    ids=["one label only", "no rows", "an empty text", "a number for a text"],
)
def test_data_that_teaches_nothing_is_refused(
    client: Client, rows: list[dict[str, Any]], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=said) as refusal:
        client.datasets.upload("n", train=write(tmp_path / "train.jsonl", rows))
    assert fields(refusal.value)


def test_bytes_that_are_not_utf_8_are_refused_by_line(client: Client, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ROWS)
    train.write_bytes(train.read_bytes() + b'{"text": "caf\xe9", "label": "animal"}\n')
    with pytest.raises(InvalidInput, match=f"{len(ROWS) + 1}") as refusal:
        client.datasets.upload("n", train=train)
    assert fields(refusal.value)


# --- models --------------------------------------------------------------------------------------------


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    # Opening this pickle would write a file that the test looks for.
    evil = b"cposix\nsystem\n(S'touch %s'\ntR." % str(folder / "opened").encode()
    (folder / "pytorch_model.bin").write_bytes(evil)


def remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def cut_short(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def by_path(client: Client, folder: Path) -> None:
    client.models.register("bad", f"path:{folder}")


def by_upload(client: Client, folder: Path) -> None:
    client.models.upload("bad", folder)


@pytest.mark.parametrize("spoil", [pickled, remote_code, no_config, cut_short])
@pytest.mark.parametrize("bring_in", [by_path, by_upload])
def test_a_model_that_cannot_be_trusted_is_refused(
    client: Client, teacher: Path, spoil: Callable[[Path], None], bring_in: Callable[[Client, Path], None]
) -> None:
    folder = teacher.parent / f"bad-{spoil.__name__}"
    shutil.copytree(teacher, folder)
    try:
        spoil(folder)
        with pytest.raises(InvalidInput) as refusal:
            bring_in(client, folder)
        assert fields(refusal.value)
        assert not (folder / "opened").exists()
    finally:
        shutil.rmtree(folder)


def test_a_path_outside_the_roots_is_refused(client: Client, teacher: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(teacher, outside)
    link = teacher.parent / "link"
    link.symlink_to(outside)
    try:
        sources = [outside, teacher.parent / ".." / outside, f"{teacher}/../../{outside.name}", link, "/etc"]
        for source in sources:
            with pytest.raises(InvalidInput, match="root") as refusal:
                client.models.register("outside", f"path:{source}")
            assert fields(refusal.value) == {"source"}
    finally:
        link.unlink()


def test_a_hub_that_cannot_be_named_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInput) as refusal:
        client.models.register("odd", "hf://../../etc@main")
    assert fields(refusal.value) == {"source"}


# --- jobs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "field"),
    [
        ({"student": {"layers": 3}}, "recipe.student.layers"),
        ({"studnt": {"layers": 1}}, "recipe.studnt"),
        ({"student": {"layer": 1}}, "recipe.student.layer"),
        ({"teach": {"when": "never"}}, "recipe.teach.when"),
        ({"mixup": {"alpha": -1}}, "recipe.mixup.alpha"),
        ({"max_length": 4096}, "recipe.max_length"),
    ],
)
def test_a_recipe_that_does_not_fit_names_its_field(
    client: Client, teacher_id: str, dataset_id: str, recipe: dict[str, Any], field: str
) -> None:
    fitting: dict[str, Any] = {"student": {"layers": 1}, "max_length": 16}
    with pytest.raises(InvalidInput) as refusal:
        client.jobs.create(teacher_id, dataset_id, recipe=fitting | recipe)
    assert field in fields(refusal.value)


def test_an_unknown_teacher_or_data_set_is_named(client: Client, teacher_id: str, dataset_id: str) -> None:
    nothing = "01k3v0q2c7y6j5h4g3f2d1s0aq"
    for teacher, dataset in ((f"mdl_{nothing}", dataset_id), (teacher_id, f"ds_{nothing}")):
        with pytest.raises(InvalidInput) as refusal:
            client.jobs.create(teacher, dataset)
        assert fields(refusal.value) <= {"teacher_id", "dataset_id"}


@pytest.fixture(scope="module")
def knows_two(client: Client, teacher: Path) -> str:
    """A teacher with a head that lacks one of the data's labels."""
    folder = make_teacher(teacher.parent / "knows-two", labels=["animal", "colour"])
    return client.models.wait(client.models.register("two", f"path:{folder}").id, timeout=60).id


def test_a_label_that_the_teacher_does_not_know_is_refused(
    knows_two: str, client: Client, dataset_id: str
) -> None:
    with pytest.raises(InvalidInput, match="number") as refusal:
        client.jobs.create(knows_two, dataset_id, recipe={"student": {"layers": 1}, "max_length": 16})
    assert fields(refusal.value)


def test_a_key_of_nobody_is_an_error_of_its_own(stack: Stack) -> None:
    with Client(stack.url, "mixkd_nobody") as stranger, pytest.raises(Unauthenticated):
        next(stranger.jobs.list())
