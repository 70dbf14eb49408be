"""A run that was killed anywhere goes on in its folder and ends as if nothing had happened."""

from pathlib import Path

import pytest

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.messages import Message, Note, PhaseStarted, Progress
from mixkd.contract.problems import RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.control import Control
from mixkd.report_schema import Report
from mixkd.reporter import Reporter
from mixkd.run import run

from .conftest import MakeSpec


class Killed(BaseException):
    """No handler of errors may catch it, as none catches a SIGKILL."""


def killed_at(phase: str, step: int) -> Reporter:
    """A reporter whose run ends in the middle of a phase."""

    def send(message: Message) -> None:
        if isinstance(message, Progress) and message.phase == phase and message.step >= step:
            raise Killed
        if isinstance(message, PhaseStarted) and message.phase == phase and step == 0:
            raise Killed

    return Reporter(
        send, clock=iter(range(10**9)).__next__
    )  # a second passes at each look: every step is told


@pytest.fixture(scope="module")
def spec(encoder_folder: Path, data: DataSpec) -> RunSpec:
    training = {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3}
    recipe = {
        "student": {"layers": 2}, "teach": training, "distil": training, "max_length": 16,
        "baselines": ["kd"], "runtime": {"checkpoint_seconds": 0},
    }  # fmt: skip
    return RunSpec.model_validate({"teacher": encoder_folder, "data": data.model_dump(), "recipe": recipe})


@pytest.fixture(scope="module")
def whole(spec: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    run(spec, folder, Reporter(lambda _: None), "cpu")
    return folder


def student(folder: Path) -> bytes:
    return (folder / "student" / "model.safetensors").read_bytes()


def lasting(folder: Path) -> dict[str, object]:
    """The report without what a clock decides."""
    report = Report.model_validate_json((folder / "report.json").read_bytes()).model_dump()
    for name in ("teacher", "student"):
        del report[name]["speed"]
    for outcome in (report["teach"], report["distil"], report["baselines"]["kd"]["outcome"]):
        del outcome["seconds"]
    for ratio in ("latency", "throughput"):
        del report["comparison"][ratio]
    return report


@pytest.mark.parametrize(
    "kills",
    [
        [("teach", 3)],
        [("teach", 16), ("distil", 0)],
        [("distil", 1), ("distil", 9), ("baselines", 0)],
        [("baselines", 5), ("evaluate", 0)],
        [("export", 0)],
    ],
    ids=str,
)
def test_a_killed_run_ends_with_the_same_student_and_report(
    spec: RunSpec, whole: Path, reporter: Reporter, tmp_path: Path, kills: list[tuple[str, int]]
) -> None:
    for phase, step in kills:
        with pytest.raises(Killed):
            run(spec, tmp_path, killed_at(phase, step), "cpu")
        assert not (tmp_path / "report.json").exists()
    run(spec, tmp_path, reporter, "cpu")
    assert student(tmp_path) == student(whole)
    assert lasting(tmp_path) == lasting(whole)
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_with_the_unfinished_work_of_another_run_is_refused(
    spec: RunSpec, make_spec: MakeSpec, reporter: Reporter, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("teach", 3), "cpu")
    with pytest.raises(RefusedError, match="another run") as caught:
        run(make_spec(seed=9), tmp_path, reporter, "cpu")
    assert "--fresh" in str(caught.value.problems[0].remedy)


def test_what_was_left_open_is_chosen_once(
    spec: RunSpec, reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("distil", 3), "cpu")
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)  # gone on with on another machine
    report = run(spec, tmp_path, reporter, "cpu")
    assert report.recipe.runtime.threads == 1
    resolved = RunSpec.model_validate_json((tmp_path / "resolved.json").read_bytes())
    assert resolved.recipe.runtime == report.recipe.runtime
    assert "auto" not in (resolved.recipe.runtime.precision, resolved.recipe.runtime.attention)


def test_the_resolved_description_repeats_the_run_to_the_bit(
    whole: Path, reporter: Reporter, tmp_path: Path
) -> None:
    resolved = RunSpec.model_validate_json((whole / "resolved.json").read_bytes())
    run(resolved, tmp_path, reporter, "cpu")
    assert student(tmp_path) == student(whole)


def test_a_run_that_is_asked_to_finish_keeps_its_best_and_has_no_baselines(
    spec: RunSpec, tmp_path: Path
) -> None:
    control = Control()

    def send(message: Message) -> None:
        if isinstance(message, Progress) and message.phase == "distil" and message.step == 3:
            control.finish_now = True

    reporter = Reporter(send, clock=iter(range(10**9)).__next__)
    report = run(spec, tmp_path, reporter, "cpu", control)
    assert (report.distil.stopped, report.distil.steps) == ("asked", 3)
    assert report.teach is not None
    assert report.teach.stopped == "end"
    assert report.baselines == {}
    assert (tmp_path / "student" / "config.json").exists()


def test_a_run_that_is_told_to_stop_goes_on_later(
    make_spec: MakeSpec, reporter: Reporter, tmp_path: Path
) -> None:
    control = Control()

    def send(message: Message) -> None:
        if isinstance(message, Progress) and message.phase == "distil" and message.step == 3:
            control.stop = True

    spec = make_spec()
    with pytest.raises(SystemExit) as caught:
        run(spec, tmp_path, Reporter(send, clock=iter(range(10**9)).__next__), "cpu", control)
    assert caught.value.code == 143
    told: list[Message] = []
    run(spec, tmp_path, Reporter(told.append, clock=iter(range(10**9)).__next__), "cpu")
    steps = [m.step for m in told if isinstance(m, Progress) and m.phase == "distil"]
    assert steps[0] == 4
    assert not [m for m in told if isinstance(m, Progress) and m.phase == "teach"]
    assert not [m for m in told if isinstance(m, Note)]
