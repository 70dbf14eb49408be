"""Checkpoints on their way to storage and back: whole or not there, never another attempt's loss."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from uuid import uuid4

import pytest

from core.config import Settings
from core.jobs import claims, ends
from core.jobs.claims import Claim, StoredCheckpoint
from core.storage import Storage, StoredFile
from mixkd.contract.messages import CheckpointWritten
from mixkd.contract.work import RESOLVED, to_go_on
from tests.support.jobs import Bench
from tests.support.waiting import until
from worker.checkpoints import Uploader, bring_back
from worker.halt import Halt, Patience, Reason, boot_seconds
from worker.publish import withdraw
from worker.sweeper import sweep

Start = Callable[..., Uploader]


def step(work: Path, number: int, training: str = "distil", weights: str | None = None) -> CheckpointWritten:
    """A trainer's checkpoint."""
    folder = work / training / f"step-{number:08}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(weights or f"weights {number}")
    (folder / "state.json").write_text(f'{{"step": {number}}}')
    for older in sorted(folder.parent.glob("step-*"))[:-2]:
        for path in older.iterdir():
            path.unlink()
        older.rmdir()
    return CheckpointWritten(phase="distil", step=number)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "origins.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("a line\n")
    (folder / RESOLVED).write_text("of this attempt")
    return folder


def claimed(bench: Bench) -> Claim:
    with bench.sessions.begin() as session:
        claim = claims.claim(session, bench.worker(), uuid4(), 60)
    assert claim is not None
    return claim


@pytest.fixture
def start(bench: Bench, work: Path, tmp_path: Path) -> Iterator[Start]:
    uploaders: list[Uploader] = []

    def make(
        claim: Claim,
        halt: Halt | None = None,
        storage: Storage | None = None,
        found: StoredCheckpoint | None = None,
    ) -> Uploader:
        uploader = Uploader(
            bench.sessions, storage or bench.storage, claim,
            work=work, aside=tmp_path / "aside", halt=halt or Halt(boot_seconds() + 60), found=found,
        )  # fmt: skip
        uploader.start()
        uploaders.append(uploader)
        return uploader

    yield make
    for uploader in uploaders:
        uploader.finish(lambda: 0)


def kept(bench: Bench, job_id: str) -> list[StoredCheckpoint]:
    return [StoredCheckpoint.model_validate(one) for one in bench.job(job_id).checkpoints]


def until_stored(bench: Bench, job_id: str, step: int) -> None:
    until(lambda: step in [one.step for one in kept(bench, job_id)][:1])


def stored(bench: Bench, job_id: str) -> set[str]:
    return set(bench.storage.keys(f"jobs/{job_id}"))


def named(bench: Bench, job_id: str) -> set[str]:
    return {file.key for one in kept(bench, job_id) for file in one.files.values()}


def brought_back(bench: Bench, claim: Claim, folder: Path) -> StoredCheckpoint | None:
    folder.mkdir()
    (folder / "spec.json").write_text("the spec")
    return bring_back(bench.storage, claim, folder / "run", folder / "spec.json", lambda: None)


def content(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_the_next_attempt_goes_on_from_the_newest_one(
    bench: Bench, start: Start, work: Path, tmp_path: Path
) -> None:
    job_id = bench.submit()
    claim = claimed(bench)
    uploader = start(claim)
    (work / "teach" / "finished").mkdir(parents=True)
    (work / "teach" / "finished" / "model.safetensors").write_text("the teacher")
    for number in (1, 2, 3):
        uploader.take(step(work, number))
        until_stored(bench, job_id, number)
    newest, before = kept(bench, job_id)
    assert (newest.attempt, newest.phase, newest.step, before.step) == (1, "distil", 3, 2)
    uploader.finish(lambda: 10)
    assert stored(bench, job_id) == named(bench, job_id), "nothing is there that no row names"
    expected = {path.relative_to(work).as_posix(): path.read_text() for path in to_go_on(work)}
    with bench.sessions.begin() as session:
        ends.hand_back(session, claim.token, "worker_shutdown")
    assert brought_back(bench, claimed(bench), tmp_path / "next") == newest
    found = content(tmp_path / "next" / "run" / "checkpoints")
    assert found == expected | {RESOLVED: "the spec"}, "and it describes this attempt's folders"
    assert "teach/finished/model.safetensors" in found


def test_it_is_called_what_it_is_though_the_news_of_it_are_old(
    bench: Bench, start: Start, work: Path
) -> None:
    """A worker that was frozen hears of the first after the trainer wrote the third."""
    job_id = bench.submit()
    uploader = start(claimed(bench))
    news = [step(work, number) for number in (1, 2, 3)]
    uploader.take(news[0])
    uploader.finish(lambda: 10)
    assert [(one.step, "distil/step-00000003/state.json" in one.files) for one in kept(bench, job_id)] == [
        (3, True)
    ]


def test_what_storage_has_is_not_sent_again(
    bench: Bench, start: Start, work: Path, settings: Settings
) -> None:
    sent: list[str] = []

    class Counting(Storage):
        def put_file(self, key: str, path: Path) -> StoredFile:
            sent.append(path.name)
            return super().put_file(key, path)

    storage = Counting(settings.storage_url)
    job_id = bench.submit()
    uploader = start(claimed(bench), storage=storage)
    uploader.take(step(work, 1, weights="the same"))
    until(lambda: len(kept(bench, job_id)) == 1)
    uploader.take(step(work, 2, weights="the same"))
    uploader.finish(lambda: 10)
    assert len(kept(bench, job_id)) == 2
    assert sent.count("model.safetensors") == 1


def test_what_no_row_names_any_more_is_sent_again(
    bench: Bench, start: Start, work: Path, settings: Settings
) -> None:
    """An earlier attempt stored it, so that the sweeper takes it while this one runs."""
    job_id = bench.submit()
    first = claimed(bench)
    uploader = start(first)
    uploader.take(step(work, 1, weights="good"))
    uploader.finish(lambda: 10)
    with bench.sessions.begin() as session:
        ends.hand_back(session, first.token, "worker_shutdown")
    second = claimed(bench)
    again = start(second, found=second.checkpoints[0])
    for number, weights in ((2, "bad"), (3, "worse")):
        again.take(step(work, number, weights=weights))
        until_stored(bench, job_id, number)
    sweep(bench.sessions, bench.storage, settings)
    again.take(step(work, 4, weights="good"))
    until_stored(bench, job_id, 4)
    assert named(bench, job_id) <= stored(bench, job_id)


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_one_gives_way_to_the_one_before(
    bench: Bench, start: Start, work: Path, settings: Settings, tmp_path: Path, *, damage: str
) -> None:
    job_id = bench.submit()
    claim = claimed(bench)
    uploader = start(claim)
    for number in (1, 2):
        uploader.take(step(work, number))
        until_stored(bench, job_id, number)
    newest, before = kept(bench, job_id)
    root = Path(settings.storage_url.removeprefix("file://"))
    path = root / newest.files["distil/step-00000002/model.safetensors"].key
    path.unlink() if damage == "gone" else path.write_text("else")
    with bench.sessions.begin() as session:
        ends.hand_back(session, claim.token, "worker_shutdown")
    assert brought_back(bench, claimed(bench), tmp_path / "next") == before
    assert "distil/step-00000002/model.safetensors" not in content(tmp_path / "next" / "run" / "checkpoints")


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_what_was_damaged_and_is_made_again_is_stored_again(
    bench: Bench, start: Start, work: Path, settings: Settings, tmp_path: Path, *, damage: str
) -> None:
    """The taught teacher is of the same content in each attempt; no checkpoint is whole without it."""
    job_id = bench.submit()
    teacher = work / "teach" / "finished" / "model.safetensors"
    teacher.parent.mkdir(parents=True)
    teacher.write_text("the teacher")
    first = claimed(bench)
    uploader = start(first)
    for number in (1, 2):
        uploader.take(step(work, number))
        until_stored(bench, job_id, number)
    key = kept(bench, job_id)[0].files["teach/finished/model.safetensors"].key
    path = Path(settings.storage_url.removeprefix("file://")) / key
    path.unlink() if damage == "gone" else path.write_text("else")
    with bench.sessions.begin() as session:
        ends.hand_back(session, first.token, "worker_shutdown")
    second = claimed(bench)
    assert brought_back(bench, second, tmp_path / "second") is None
    uploader = start(second)
    for number in (3, 4):
        uploader.take(step(work, number))
        until_stored(bench, job_id, number)
        assert [one.attempt for one in kept(bench, job_id)] == [2] * (number - 2), "the damaged ones are gone"
    with bench.sessions.begin() as session:
        ends.hand_back(session, second.token, "worker_shutdown")
    assert brought_back(bench, claimed(bench), tmp_path / "third") == kept(bench, job_id)[0]


def test_a_damaged_one_does_not_take_the_place_of_a_whole_one(
    bench: Bench, start: Start, work: Path, settings: Settings, tmp_path: Path
) -> None:
    job_id = bench.submit()
    first = claimed(bench)
    uploader = start(first)
    for number in (1, 2):
        uploader.take(step(work, number))
        until_stored(bench, job_id, number)
    newest, before = kept(bench, job_id)
    root = Path(settings.storage_url.removeprefix("file://"))
    (root / newest.files["distil/step-00000002/model.safetensors"].key).unlink()
    with bench.sessions.begin() as session:
        ends.hand_back(session, first.token, "worker_shutdown")
    second = claimed(bench)
    found = brought_back(bench, second, tmp_path / "second")
    start(second, found=found).take(step(work, 3))
    until_stored(bench, job_id, 3)
    assert kept(bench, job_id)[1:] == [before]


def test_a_lease_that_is_lost_stores_nothing_more(bench: Bench, start: Start, work: Path) -> None:
    job_id = bench.submit()
    halt = Halt(boot_seconds() + 60)
    uploader = start(claimed(bench), halt)
    halt.ask(Reason.LEASE_LOST)
    uploader.take(step(work, 1))
    uploader.finish(lambda: 10)
    assert kept(bench, job_id) == []
    assert stored(bench, job_id) == set()


def test_storage_that_fails_is_tried_again(
    bench: Bench, start: Start, work: Path, settings: Settings
) -> None:
    class Flaky(Storage):
        away = True

        def put_file(self, key: str, path: Path) -> StoredFile:
            if self.away:
                raise OSError("storage is away")
            return super().put_file(key, path)

    storage = Flaky(settings.storage_url)
    job_id = bench.submit()
    uploader = start(claimed(bench), storage=storage)
    uploader.take(step(work, 1))
    storage.away = False
    uploader.take(step(work, 2))
    until_stored(bench, job_id, 2)


def test_a_worker_that_must_stop_does_not_wait_as_long_as_a_pause(
    bench: Bench, start: Start, work: Path, settings: Settings
) -> None:
    hangs, go_on = Event(), Event()

    class Hanging(Storage):
        def put_file(self, key: str, path: Path) -> StoredFile:
            hangs.set()
            go_on.wait(60)
            return super().put_file(key, path)

    bench.submit()
    halt = Halt(boot_seconds() + 60)
    uploader = start(claimed(bench), halt, Hanging(settings.storage_url))
    uploader.take(step(work, 1))
    assert hangs.wait(20)
    halt.ask(Reason.PAUSE)
    patience = Patience(halt, {Reason.PAUSE: 60, Reason.SHUTDOWN: 0.2})
    finishing = Thread(target=uploader.finish, args=[patience.left])
    finishing.start()
    finishing.join(0.5)
    assert finishing.is_alive()
    halt.ask(Reason.SHUTDOWN)
    finishing.join(20)
    assert not finishing.is_alive()
    go_on.set()


def test_what_was_published_in_vain_goes_and_checkpoints_stay(bench: Bench, start: Start, work: Path) -> None:
    job_id = bench.submit()
    claim = claimed(bench)
    uploader = start(claim)
    uploader.take(step(work, 1))
    uploader.finish(lambda: 10)
    for name in ("student/config.json", "report.json", "manifest.json"):
        bench.storage.put_file(f"{claim.prefix}/{name}", work / "origins.json")
    withdraw(bench.storage, claim.prefix)
    assert stored(bench, job_id) == named(bench, job_id) != set()


def test_the_sweeper_takes_what_no_row_names_and_nothing_else(
    bench: Bench, start: Start, work: Path, settings: Settings
) -> None:
    job_id = bench.submit()
    claim = claimed(bench)
    uploader = start(claim)
    uploader.take(step(work, 1))
    uploader.finish(lambda: 10)
    half = f"{claim.prefix}/student/model.safetensors"
    bench.storage.put_file(half, work / "origins.json")
    assert sweep(bench.sessions, bench.storage, settings) == 0, "the attempt is publishing"
    with bench.sessions.begin() as session:
        ends.fail(session, claim.token, ends.OVERDUE)
    assert sweep(bench.sessions, bench.storage, settings) == 1
    assert stored(bench, job_id) == named(bench, job_id) != set(), "it can be retried"
    assert sweep(bench.sessions, bench.storage, settings.model_copy(update={"keep_checkpoints_days": 0})) > 0
    assert stored(bench, job_id) == set()
    assert kept(bench, job_id) == []


def test_the_sweeper_leaves_a_student_alone(
    bench: Bench, start: Start, work: Path, settings: Settings
) -> None:
    job_id = bench.submit()
    claim = claimed(bench)
    uploader = start(claim)
    uploader.take(step(work, 1))
    uploader.finish(lambda: 10)
    student = f"{claim.prefix}/student/model.safetensors"
    file = bench.storage.put_file(student, work / "origins.json")
    with bench.sessions.begin() as session:
        ends.succeed(session, claim.token, {"model.safetensors": file}, {}, {})
    assert sweep(bench.sessions, bench.storage, settings) > 0
    assert stored(bench, job_id) == {student}


def test_links_and_not_copies_are_set_aside(
    bench: Bench, start: Start, work: Path, settings: Settings, tmp_path: Path
) -> None:
    """A checkpoint of gigabytes must not take the disk's room twice."""
    inodes: list[bool] = []

    class Looking(Storage):
        def put_file(self, key: str, path: Path) -> StoredFile:
            if path.name == "model.safetensors":
                inodes.append(path.stat().st_nlink == 2)
            return super().put_file(key, path)

    bench.submit()
    uploader = start(claimed(bench), storage=Looking(settings.storage_url))
    uploader.take(step(work, 1))
    uploader.finish(lambda: 10)
    assert inodes == [True]
    assert not (tmp_path / "aside").exists()
