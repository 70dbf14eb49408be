"""Checkpoints on the disk: whole or not there, no more than asked, never trusted without a check."""

import hashlib
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from mixkd.contract.work import FINISHED
from mixkd.training.checkpoint import BEST, MODEL, Checkpoints, NotWrittenError, at_step

WEIGHTS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "teach", "a fingerprint", keep=2)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir())


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a real error in the middle of a write, as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_comes_back(checkpoints: Checkpoints) -> None:
    facts = {"step": 3, "rate": 0.1 + 0.2, "λ": None}
    checkpoints.write(at_step(3), {MODEL: WEIGHTS}, facts)
    found, problems = checkpoints.newest()
    assert problems == []
    assert found is not None
    assert found.facts == facts
    assert not found.finished
    loaded = found.load(MODEL)
    assert loaded.keys() == WEIGHTS.keys()
    assert all(torch.equal(value, loaded[name]) for name, value in WEIGHTS.items())


def test_nothing_is_written_that_could_be_run(checkpoints: Checkpoints) -> None:
    written = checkpoints.write(at_step(3), {MODEL: WEIGHTS}, {})
    assert {path.suffix for path in written.folder.iterdir()} == {".safetensors", ".json"}
    json.loads((written.folder / "state.json").read_bytes())


def test_the_newest_ones_are_kept_and_a_finished_training_is_the_newest(checkpoints: Checkpoints) -> None:
    for step in (9, 10, 11, 100):
        checkpoints.write(at_step(step), {MODEL: WEIGHTS}, {"step": step})
    assert names(checkpoints) == [at_step(11), at_step(100)]
    checkpoints.write(FINISHED, {MODEL: WEIGHTS}, {})
    assert names(checkpoints) == [FINISHED, at_step(100)]
    found, _ = checkpoints.newest()
    assert found is not None
    assert found.finished


def test_checkpoints_share_no_file(checkpoints: Checkpoints) -> None:
    """One damaged block of a disk would otherwise cost all of them."""
    first = checkpoints.write(at_step(1), {MODEL: WEIGHTS, BEST: WEIGHTS}, {})
    second = checkpoints.write(at_step(2), {MODEL: WEIGHTS, BEST: WEIGHTS}, {})
    os.truncate(second.files[BEST].path, 20)
    found, problems = checkpoints.newest()
    assert found is not None
    assert found.folder == first.folder
    assert "best.safetensors is damaged" in problems[0]
    assert torch.equal(found.load(BEST)["weight"], WEIGHTS["weight"])


@pytest.mark.parametrize("size", [0, 40, 300])  # within the tensors' header, the tensors, state.json
def test_a_full_disk_costs_the_new_checkpoint_and_nothing_else(checkpoints: Checkpoints, size: int) -> None:
    checkpoints.write(at_step(1), {MODEL: WEIGHTS}, {"step": 1})
    with room_for(size), pytest.raises(NotWrittenError, match="too large"):
        checkpoints.write(at_step(2), {MODEL: WEIGHTS}, {"long": "x" * 1000})
    assert names(checkpoints) == [at_step(1)]
    found, problems = checkpoints.newest()
    assert found is not None
    assert (found.facts, problems) == ({"step": 1}, [])
    checkpoints.write(at_step(2), {MODEL: WEIGHTS}, {})  # as soon as there is room again


def test_what_a_killed_process_left_is_cleared_away(checkpoints: Checkpoints) -> None:
    written = checkpoints.write(at_step(1), {MODEL: WEIGHTS}, {})
    half = checkpoints.folder / f".scratch-{at_step(2)}"
    half.mkdir()
    (half / MODEL).write_bytes(b"half a file")
    found, problems = checkpoints.newest()
    assert found is not None
    assert (found.folder, problems) == (written.folder, [])
    assert names(checkpoints) == [at_step(1)]


def test_one_of_another_training_or_release_is_not_used(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        checkpoints.write(at_step(step), {MODEL: WEIGHTS}, {"step": step})
    assert Checkpoints(checkpoints.folder, "another", 2).newest()[0] is None
    state = checkpoints.folder / at_step(3) / "state.json"
    state.write_text(state.read_text().replace('"format": 1', '"format": 2'))
    found, problems = checkpoints.newest()
    assert found is not None
    assert found.facts == {"step": 2}
    assert "another release" in problems[0]


def test_facts_that_were_changed_are_not_believed(checkpoints: Checkpoints) -> None:
    written = checkpoints.write(at_step(3), {MODEL: WEIGHTS}, {"best_step": 2})
    state = written.folder / "state.json"
    state.write_text(state.read_text().replace('"best_step": 2', '"best_step": 3'))
    found, problems = checkpoints.newest()
    assert found is None
    assert "state.json is damaged" in problems[0]


def test_a_refused_one_of_the_same_step_is_replaced(checkpoints: Checkpoints) -> None:
    written = checkpoints.write(at_step(3), {MODEL: WEIGHTS}, {"try": 1})
    os.truncate(written.files[MODEL].path, 20)
    checkpoints.write(at_step(3), {MODEL: WEIGHTS}, {"try": 2})
    found, problems = checkpoints.newest()
    assert found is not None
    assert (found.facts, problems) == ({"try": 2}, [])


def test_a_refused_one_makes_room_for_the_training_that_began_anew(checkpoints: Checkpoints) -> None:
    """Left in place, those of later steps would count as the newest, and be kept for ever."""
    for step in (50, 60):
        checkpoints.write(at_step(step), {MODEL: WEIGHTS}, {"step": step})
    other = Checkpoints(checkpoints.folder, "another", 2)
    other.write(at_step(1), {MODEL: WEIGHTS}, {"step": 1})
    assert names(other) == [at_step(1)]


def test_everything_is_on_the_disk_before_it_gets_its_name(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut leaves a checkpoint of empty files."""
    events: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        events.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    checkpoints.write(at_step(1), {MODEL: WEIGHTS}, {})
    assert events == [MODEL, "state.json", f".scratch-{at_step(1)}", "rename", "teach"]


@pytest.mark.parametrize("content", [[], {}, {"fingerprint": "", "files": 3, "facts": {}}])
def test_a_state_that_says_something_else_gives_way_to_the_one_before(
    checkpoints: Checkpoints, content: object
) -> None:
    """Its checksum may be right: another release could have written it."""
    first = checkpoints.write(at_step(1), {MODEL: WEIGHTS}, {})
    checkpoints.write(at_step(2), {MODEL: WEIGHTS}, {})
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    state = {"format": 1, "sha256": digest, "content": content}
    (checkpoints.folder / at_step(2) / "state.json").write_text(json.dumps(state))
    (checkpoints.folder / ".scratch-x").touch()  # not ours, and no folder
    found, problems = checkpoints.newest()
    assert found is not None
    assert found.folder == first.folder
    assert len(problems) == 1
