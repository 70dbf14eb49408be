"""The Python client against the real API, at times through a proxy that breaks its connections."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

import mixkd_client
from core.config import Settings
from core.db import SessionFactory
from core.ids import new_id
from core.jobs import claims, ends
from core.jobs.states import FailureCause
from core.storage import Storage
from core.workers import service as workers
from mixkd.contract.messages import Progress
from mixkd_client import Client, Event
from mixkd_client._cli import main
from tests.support.breaking_proxy import breaking


@pytest.fixture
def key(api: httpx.Client) -> str:
    return api.headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def client(base_url: str, key: str) -> Iterator[Client]:
    with Client(base_url, key) as client:
        yield client


@pytest.fixture
def job_id(client: Client, request_body: dict[str, Any]) -> str:
    return client.jobs.create(**request_body).id


@pytest.fixture
def claim(job_id: str, sessions: SessionFactory) -> claims.Claim:
    """The queued job, claimed as a worker would."""
    with sessions.begin() as session:
        worker_id = new_id("wrk")
        workers.register(session, worker_id, hostname="here", pid=1, device="cpu", gpus=0)
        claim = claims.claim(session, worker_id, uuid4(), lease_seconds=600)
    assert claim is not None
    return claim


@pytest.fixture
def student(
    job_id: str, claim: claims.Claim, sessions: SessionFactory, settings: Settings, tmp_path: Path
) -> dict[str, bytes]:
    """What the job, which has succeeded, produced: file contents by path."""
    contents = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 12_000, "empty": b""}
    storage = Storage(settings.storage_url)
    files = {}
    for path, content in contents.items():
        local = tmp_path / "local"
        local.write_bytes(content)
        files[path] = storage.put_file(f"{claim.prefix}/student/{path}", local)
    with sessions.begin() as session:
        ends.succeed(session, claim.token, files, info={"family": "bert"}, report={"format": 1})
    return contents


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- creating ------------------------------------------------------------------------------------------


def test_a_job_whose_answer_was_lost_is_made_once(
    base_url: str, key: str, client: Client, request_body: dict[str, Any]
) -> None:
    with breaking(base_url, [0, 0]) as proxy, Client(proxy.url, key) as unlucky:
        made = unlucky.jobs.create(**request_body)
    assert [job.id for job in client.jobs.list()] == [made.id]


def test_a_service_that_is_not_there_is_named(key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}", key, retries=1) as client,
        pytest.raises(mixkd_client.ConnectionFailed, match=str(port)),
    ):
        client.jobs.get("job_0")


def test_a_refusal_says_which_field_and_what_to_do(client: Client, request_body: dict[str, Any]) -> None:
    with pytest.raises(mixkd_client.InvalidInput) as refusal:
        client.jobs.create(**request_body | {"recipe": {"student": {"layers": 9}}})
    assert (refusal.value.status, refusal.value.code) == (422, "invalid_input")
    assert refusal.value.request_id
    (problem,) = refusal.value.errors
    assert (problem.field, problem.value) == ("recipe.student.layers", 9)
    assert problem.remedy
    assert "recipe.student.layers" in str(refusal.value)
    assert list(client.jobs.list()) == []


def test_each_status_is_an_error_of_its_own(base_url: str, client: Client, job_id: str) -> None:
    with pytest.raises(mixkd_client.NotFound):
        client.jobs.get(new_id("job"))
    with pytest.raises(mixkd_client.NotFound):
        client.jobs.report(job_id)
    with Client(base_url, "mixkd_wrong") as stranger, pytest.raises(mixkd_client.Unauthenticated):
        stranger.jobs.get(job_id)
    with Client(base_url, "mixkd_wrong") as stranger, pytest.raises(mixkd_client.Unauthenticated):
        stranger.jobs.wait(job_id)


def test_a_long_list_is_fetched_to_its_end(client: Client, request_body: dict[str, Any]) -> None:
    made = [client.jobs.create(**request_body).id for _ in range(52)]  # the service's pages hold 50
    assert [job.id for job in client.jobs.list()] == made[::-1]
    assert [job.id for job in client.jobs.list(status="running")] == []


# --- following -----------------------------------------------------------------------------------------


def test_a_stream_that_breaks_again_and_again_neither_repeats_nor_skips(
    base_url: str, key: str, client: Client, claim: claims.Claim, sessions: SessionFactory
) -> None:
    with sessions.begin() as session:
        for _ in range(10):
            claims.enter_phase(session, claim.token, "teach", 10)
            claims.enter_phase(session, claim.token, "distil", 10)
        claims.progress(session, claim.token, Progress(phase="distil", step=3, steps=10, loss=0.5))
        ends.cancelled(session, claim.token)
    history = list(client.jobs.events(claim.job_id))
    assert len(history) > 20
    with breaking(base_url, [600, 0, 1000, 1100, 700]) as proxy, Client(proxy.url, key) as unlucky:
        seen = list(unlucky.jobs.stream(claim.job_id))
        assert not proxy.limits  # every connection that was to break did
    assert [update for update in seen if isinstance(update, Event)] == history
    assert [event.seq for event in history] == list(range(1, len(history) + 1))


def test_a_stream_after_the_final_event_ends_at_once(
    client: Client, claim: claims.Claim, sessions: SessionFactory
) -> None:
    with sessions.begin() as session:
        ends.cancelled(session, claim.token)
    last = list(client.jobs.events(claim.job_id))[-1].seq
    assert list(client.jobs.stream(claim.job_id, after=last, timeout=60)) == []


def test_waiting_shows_progress_and_returns_the_finished_job(
    client: Client, job_id: str, claim: claims.Claim, sessions: SessionFactory
) -> None:
    seen: list[object] = []

    def on_update(update: object) -> None:
        """Plays the worker: each thing that the client sees lets the next one happen."""
        seen.append(update)
        with sessions.begin() as session:
            match update:
                case Event(type="claimed"):
                    claims.progress(session, claim.token, Progress(phase="teach", step=3, steps=9, loss=0.5))
                case mixkd_client.Progress(step=3):
                    ends.succeed(session, claim.token, {}, {"family": "bert"}, {"format": 1})
                case _:
                    pass

    job = client.jobs.wait(job_id, on_update=on_update, timeout=60)
    assert job.status == "succeeded"
    assert job.finished
    snapshot = next(update for update in seen if isinstance(update, mixkd_client.Progress))
    assert (snapshot.phase, snapshot.step, snapshot.steps, snapshot.loss) == ("teach", 3, 9, 0.5)


def test_waiting_for_a_job_that_fails_raises_its_cause(
    client: Client, job_id: str, claim: claims.Claim, sessions: SessionFactory
) -> None:
    failure = ends.Failure(FailureCause.DIVERGED, "the loss became NaN", remedy="lower the learning rate")
    with sessions.begin() as session:
        ends.fail(session, claim.token, failure)
    with pytest.raises(mixkd_client.JobFailed, match="diverged: the loss became NaN") as failed:
        client.jobs.wait(job_id)
    assert failed.value.job.failure is not None
    assert failed.value.job.failure.remedy == "lower the learning rate"
    (attempt,) = client.jobs.attempts(job_id)
    assert (attempt.number, attempt.outcome, attempt.cause) == (1, "failed", "diverged")


def test_waiting_for_a_cancelled_job_says_so(client: Client, job_id: str) -> None:
    assert client.jobs.cancel(job_id).status == "cancelled"
    assert client.jobs.cancel(job_id).status == "cancelled"
    with pytest.raises(mixkd_client.JobCancelled, match=job_id):
        client.jobs.wait(job_id)


def test_waiting_for_a_retried_job_goes_past_its_earlier_end(
    client: Client, job_id: str, claim: claims.Claim, sessions: SessionFactory
) -> None:
    with sessions.begin() as session:
        ends.fail(session, claim.token, ends.OVERDUE)
    client.jobs.retry(job_id)
    seen: list[str] = []

    def on_update(update: object) -> None:
        if isinstance(update, Event):
            seen.append(update.type)
            if update.type == "retried":
                client.jobs.cancel(job_id)

    with pytest.raises(mixkd_client.JobCancelled):
        client.jobs.wait(job_id, on_update=on_update, timeout=60)
    assert seen == ["queued", "claimed", "failed", "retried", "cancelled"]


def test_a_connection_that_breaks_at_an_earlier_end_is_opened_again(
    base_url: str, key: str, client: Client, job_id: str
) -> None:
    client.jobs.cancel(job_id)
    client.jobs.retry(job_id)
    client.jobs.cancel(job_id)
    history = list(client.jobs.events(job_id))
    for cut in range(300, 900, 75):
        with breaking(base_url, [cut]) as proxy, Client(proxy.url, key) as unlucky:
            assert list(unlucky.jobs.stream(job_id)) == history


def test_a_paused_job_is_waited_for_until_somebody_resumes_it(client: Client, job_id: str) -> None:
    client.jobs.pause(job_id)
    with pytest.raises(mixkd_client.TimedOut):
        client.jobs.wait(job_id, timeout=0.3)
    seen: list[str] = []

    def on_update(update: object) -> None:
        if isinstance(update, Event):
            seen.append(update.type)
            if update.type == "paused":
                client.jobs.resume(job_id)
            elif update.type == "resumed":
                client.jobs.cancel(job_id)

    with pytest.raises(mixkd_client.JobCancelled):
        client.jobs.wait(job_id, on_update=on_update, timeout=60)
    assert seen == ["queued", "paused", "resumed", "cancelled"]


def test_waiting_ends_when_the_caller_said(client: Client, job_id: str) -> None:
    with pytest.raises(mixkd_client.TimedOut):
        client.jobs.wait(job_id, timeout=0.3)
    assert client.jobs.get(job_id).status == "queued"


# --- downloading ---------------------------------------------------------------------------------------


def test_a_download_over_breaking_connections_arrives_whole_and_fetches_nothing_twice(
    base_url: str, key: str, job_id: str, student: dict[str, bytes], tmp_path: Path
) -> None:
    size = sum(map(len, student.values()))
    with breaking(base_url, [size // 3, size // 3, size // 4]) as proxy, Client(proxy.url, key) as unlucky:
        folder = unlucky.jobs.download_student(job_id, tmp_path / "student")
        assert not proxy.limits
    assert contents(folder) == student
    assert proxy.passed < 1.1 * size
    assert not list(tmp_path.glob(".student*"))


def test_an_abandoned_download_leaves_no_folder_and_the_next_goes_on_from_there(
    base_url: str, key: str, job_id: str, student: dict[str, bytes], tmp_path: Path
) -> None:
    size = sum(map(len, student.values()))
    with breaking(base_url, [size // 2]) as proxy, Client(proxy.url, key, retries=0) as unlucky:
        with pytest.raises(mixkd_client.ConnectionFailed):
            unlucky.jobs.download_student(job_id, tmp_path / "student")
        assert not (tmp_path / "student").exists()
        unlucky.jobs.download_student(job_id, tmp_path / "student")
    assert contents(tmp_path / "student") == student
    assert proxy.passed < 1.1 * size


def test_a_file_that_is_not_the_promised_one_is_not_kept(
    client: Client, claim: claims.Claim, student: dict[str, bytes], settings: Settings, tmp_path: Path
) -> None:
    stored = Path(settings.storage_url.removeprefix("file://"), claim.prefix, "student", "model.safetensors")
    stored.write_bytes(bytes(len(student["model.safetensors"])))
    with pytest.raises(mixkd_client.CorruptDownload, match=r"model\.safetensors"):
        client.jobs.download_student(claim.job_id, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_bad_leftover_of_an_earlier_download_is_fetched_again(
    client: Client, job_id: str, student: dict[str, bytes], tmp_path: Path
) -> None:
    part = tmp_path / ".student.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"of another job")
    (part / "stray").write_bytes(b"of another job")
    client.jobs.download_student(job_id, tmp_path / "student")
    assert contents(tmp_path / "student") == student


def test_a_folder_with_something_else_in_it_is_left_alone(
    client: Client, job_id: str, student: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "mine").write_text("precious")
    with pytest.raises(FileExistsError):
        client.jobs.download_student(job_id, tmp_path / "student")
    assert contents(tmp_path / "student") == {"mine": b"precious"}


# --- the command ---------------------------------------------------------------------------------------


@pytest.fixture
def mixkd(
    base_url: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The `mixkd` command with the service's address and a key in its environment; what it printed."""
    monkeypatch.setenv("MIXKD_URL", base_url)
    monkeypatch.setenv("MIXKD_API_KEY", key)

    def run(*arguments: str | Path) -> str:
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def test_the_command_submits_shows_lists_and_cancels(
    mixkd: Callable[..., str], request_body: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"student": {"layers": 2}}')
    ids = ["--teacher", request_body["teacher_id"], "--dataset", request_body["dataset_id"]]
    job_id = mixkd("jobs", "submit", *ids, "--recipe", recipe, "--name", "tiny").strip()
    shown = mixkd_client.Job.model_validate_json(mixkd("jobs", "show", job_id))
    assert (shown.id, shown.name, shown.recipe["student"]["layers"]) == (job_id, "tiny", 2)
    assert "tiny" in mixkd("jobs", "list", "--status", "queued")
    mixkd("jobs", "cancel", job_id)
    assert "tiny" not in mixkd("jobs", "list", "--status", "queued")
    with pytest.raises(SystemExit, match=f"{job_id} was cancelled"):
        mixkd("jobs", "watch", job_id)


def test_wishes_reach_the_service(client: Client, request_body: dict[str, Any]) -> None:
    ids = request_body["teacher_id"], request_body["dataset_id"]
    wanted = {"device": "gpu", "gpu_type": "h100", "gpus": 2}
    job = client.jobs.create(*ids, resources=wanted, deadline_seconds=3600)
    assert job.resources.model_dump() == wanted
    assert job.deadline_at is not None
    assert client.jobs.set_priority(job.id, 7).priority == 7
    for ask, status in (
        (client.jobs.pause, "paused"), (client.jobs.resume, "queued"),
        (client.jobs.cancel, "cancelled"), (client.jobs.retry, "queued"),
    ):  # fmt: skip
        assert ask(job.id).status == status
    with pytest.raises(mixkd_client.Conflict, match="only a training has something to keep"):
        client.jobs.finish(job.id)


def test_the_command_passes_wishes_on(
    mixkd: Callable[..., str], client: Client, request_body: dict[str, Any]
) -> None:
    ids = ["--teacher", request_body["teacher_id"], "--dataset", request_body["dataset_id"]]
    job_id = mixkd("jobs", "submit", *ids, "--device", "cpu", "--deadline-seconds", "60").strip()
    assert mixkd("jobs", "priority", job_id, "80") == "queued, number 1\n"
    assert mixkd("jobs", "pause", job_id) == "paused\n"
    job = client.jobs.get(job_id)
    assert (job.status, job.priority, job.resources.device) == ("paused", 80, "cpu")
    assert mixkd("jobs", "resume", job_id) == "queued, number 1\n"
    assert mixkd("jobs", "cancel", job_id) == "cancelled\n"
    assert mixkd("jobs", "retry", job_id) == "queued, number 1\n"
    with pytest.raises(SystemExit, match="cannot be finished early"):
        mixkd("jobs", "finish", job_id)


def test_the_command_says_of_a_running_job_what_will_become_of_it(
    mixkd: Callable[..., str], job_id: str, claim: claims.Claim
) -> None:
    said = [mixkd("jobs", wish, job_id).strip() for wish in ("finish", "pause", "resume", "cancel")]
    assert said == ["running", "running, to be paused", "running", "running, to be cancelled"]


def test_the_command_downloads(
    mixkd: Callable[..., str], job_id: str, student: dict[str, bytes], tmp_path: Path
) -> None:
    mixkd("jobs", "download", job_id, tmp_path / "student")
    assert contents(tmp_path / "student") == student


def test_the_command_says_what_is_wrong_without_a_traceback(
    mixkd: Callable[..., str], request_body: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"studnt": {}}')
    ids = ["--teacher", request_body["teacher_id"], "--dataset", request_body["dataset_id"]]
    with pytest.raises(SystemExit, match=r"mixkd: recipe\.studnt: .*student"):
        mixkd("jobs", "submit", *ids, "--recipe", recipe)
