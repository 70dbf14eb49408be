"""A run that was killed anywhere goes on in its folder and ends as if nothing had happened."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mixkd.contract.data_spec import DataSpec
from mixkd.contract.messages import CheckpointWritten, Message, Note, PhaseStarted, Progress, Resolved
from mixkd.contract.problems import RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.report.schema import Report
from mixkd.reporter import Reporter
from mixkd.run import run
from mixkd.training.control import Control

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
        del outcome["seconds"], outcome["writing_seconds"]
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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """How many threads torch takes; as before afterwards, since the number decides the last bits."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_what_was_left_open_is_chosen_once(
    spec: RunSpec, reporter: Reporter, tmp_path: Path, threads: Callable[[int], None]
) -> None:
    threads(1)
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("distil", 3), "cpu")
    threads(2)  # gone on with on another machine
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


def test_an_attention_that_was_asked_for_is_that_of_every_attempt(
    spec: RunSpec, reporter: Reporter, tmp_path: Path
) -> None:
    """Eager and SDPA attention differ in the last bits."""
    eager = spec.recipe.runtime.model_copy(update={"attention": "eager"})
    spec = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"runtime": eager})})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    run(spec, whole, reporter, "cpu")
    with pytest.raises(Killed):
        run(spec, killed, killed_at("teach", 5), "cpu")
    run(spec, killed, reporter, "cpu")
    assert student(killed) == student(whole)


def test_a_run_does_not_go_on_with_another_teacher_or_other_data_of_the_same_names(
    spec: RunSpec, reporter: Reporter, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(spec.teacher, teacher)
    spec = spec.model_copy(update={"teacher": teacher})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(Killed):
        run(spec, out, killed_at("distil", 3), "cpu")
    weights = load_file(teacher / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] += 0.01
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RefusedError, match="has changed"):
        run(spec, out, reporter, "cpu")


def test_a_run_that_has_ended_is_not_trained_again(spec: RunSpec, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "ended")
    told: list[Message] = []
    report = run(spec, tmp_path / "ended", Reporter(told.append), "cpu")
    assert report == Report.model_validate_json((whole / "report.json").read_bytes())
    assert {message.phase for message in told if isinstance(message, PhaseStarted)} == {"prepare"}
    assert [message for message in told if isinstance(message, Note)]


def test_what_no_student_depends_on_may_change_between_attempts(
    spec: RunSpec, whole: Path, reporter: Reporter, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("distil", 3), "cpu")
    rarely = spec.recipe.runtime.model_copy(update={"checkpoint_seconds": 600, "keep_checkpoints": 1})
    changed = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"runtime": rarely})})
    run(changed, tmp_path, reporter, "cpu")
    assert student(tmp_path) == student(whole)


@pytest.mark.parametrize(
    ("phase", "cut"), [("prepare", []), ("teach", ["teach"]), ("distil", ["distil"]), ("baselines", ["kd"])]
)
def test_a_wish_to_finish_is_granted_once_and_after_a_step_at_least(
    spec: RunSpec, tmp_path: Path, phase: str, cut: list[str]
) -> None:
    control = Control()

    def send(message: Message) -> None:
        if isinstance(message, PhaseStarted) and message.phase == phase:
            control.finish_now = True

    report = run(spec, tmp_path, Reporter(send), "cpu", control)
    assert report.teach is not None
    steps = {"teach": report.teach.steps, "distil": report.distil.steps}
    assert {name: count for name, count in steps.items() if count < 16} == dict.fromkeys(
        [name for name in cut if name in steps], 1
    )
    # A baseline that ended early would have had another budget than the student.
    assert bool(report.baselines) == (not cut or cut == ["teach"])


def test_a_wish_that_comes_after_the_teachers_last_step_does_not_cut_the_student_short(
    spec: RunSpec, tmp_path: Path
) -> None:
    control = Control()

    def send(message: Message) -> None:
        if isinstance(message, CheckpointWritten) and message.phase == "teach" and message.step == 16:
            control.finish_now = True

    report = run(spec, tmp_path, Reporter(send), "cpu", control)
    assert report.teach is not None
    assert (report.teach.stopped, report.distil.stopped, report.distil.steps) == ("end", "end", 16)


def test_curves_show_no_step_that_never_counted(spec: RunSpec, tmp_path: Path) -> None:
    rarely = spec.recipe.runtime.model_copy(update={"checkpoint_seconds": 600})
    slow = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"runtime": rarely})})
    with pytest.raises(Killed):
        run(slow, tmp_path, killed_at("distil", 12), "cpu")
    control = Control()

    def send(message: Message) -> None:
        if isinstance(message, PhaseStarted) and message.phase == "distil":
            control.finish_now = True

    report = run(slow, tmp_path, Reporter(send), "cpu", control)
    assert report.distil.steps == 1
    assert {point.step for point in report.curves if point.phase == "distil"} == {1}


def test_two_processes_do_not_work_in_one_folder(spec: RunSpec, reporter: Reporter, tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(RefusedError, match="another process"):
            run(spec, tmp_path, reporter, "cpu")
    finally:
        os.close(other)


def test_what_a_killed_export_left_is_gone_afterwards(
    spec: RunSpec, whole: Path, reporter: Reporter, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("export", 0), "cpu")
    for name in (".student-abcd_123", ".student-abcd_123-old", ".student-notes"):
        (tmp_path / name).mkdir()
    run(spec, tmp_path, reporter, "cpu")
    (tmp_path / ".student-notes").rmdir()  # somebody's own: it is still there
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.parametrize("damage", ["{", "", None])
def test_a_damaged_note_of_the_files_is_not_trusted(
    spec: RunSpec, reporter: Reporter, tmp_path: Path, damage: str | None
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("teach", 5), "cpu")
    note = tmp_path / "checkpoints" / "origins.json"
    note.unlink()
    note.mkdir() if damage is None else note.write_text(damage)
    with pytest.raises(RefusedError, match="has changed"):
        run(spec, tmp_path, reporter, "cpu")


def test_the_student_of_another_recipe_is_not_handed_out(
    spec: RunSpec, whole: Path, make_spec: MakeSpec, reporter: Reporter, tmp_path: Path
) -> None:
    """The description is written before the first checkpoint: a kill in between must not be forgotten."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    other = make_spec(seed=9)

    def send(message: Message) -> None:
        if isinstance(message, Resolved):
            raise Killed

    with pytest.raises(Killed):
        run(other, out, Reporter(send), "cpu")
    report = run(other, out, reporter, "cpu")
    assert report.seed == 9
    assert student(out) != student(whole)


def test_what_is_in_the_folder_belongs_together_until_the_new_student_is_there(
    spec: RunSpec, whole: Path, make_spec: MakeSpec, reporter: Reporter, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = {name: (out / name).read_bytes() for name in ("resolved.json", "report.json")}
    with pytest.raises(Killed):
        run(make_spec(seed=9), out, killed_at("distil", 3), "cpu")
    assert {name: (out / name).read_bytes() for name in before} == before
    assert student(out) == student(whole)
    with pytest.raises(RefusedError, match="another run"):
        run(spec, out, reporter, "cpu")
    run(make_spec(seed=9), out, reporter, "cpu")
    assert RunSpec.model_validate_json((out / "resolved.json").read_bytes()).recipe.seed == 9
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_an_export_that_fails_leaves_no_report_of_another_student(
    whole: Path, make_spec: MakeSpec, reporter: Reporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mixkd.run.write_card", full)
    with pytest.raises(OSError, match="No space"):
        run(make_spec(seed=9), out, reporter, "cpu")
    assert student(out) != student(whole)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "student"]


def test_a_run_within_its_teachers_folder_can_go_on(
    spec: RunSpec, whole: Path, encoder_folder: Path, reporter: Reporter, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(encoder_folder, teacher)
    inside = spec.model_copy(update={"teacher": teacher})
    (teacher / "run").mkdir()
    with pytest.raises(Killed):
        run(inside, teacher / "run", killed_at("distil", 3), "cpu")
    run(inside, teacher / "run", reporter, "cpu")
    assert student(teacher / "run") == student(whole)


def test_a_log_that_is_no_file_costs_the_curves_only(
    spec: RunSpec, whole: Path, reporter: Reporter, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("distil", 3), "cpu")
    (tmp_path / "checkpoints" / "metrics.jsonl").unlink()
    (tmp_path / "checkpoints" / "metrics.jsonl").mkdir()
    report = run(spec, tmp_path, reporter, "cpu")
    assert report.curves == []
    assert student(tmp_path) == student(whole)


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
def test_a_run_whose_student_is_not_whole_has_not_ended(
    spec: RunSpec, whole: Path, reporter: Reporter, tmp_path: Path, lost: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "student" / lost).unlink()
    run(spec, out, reporter, "cpu")
    assert student(out) == student(whole)


def test_checkpoints_of_a_run_that_nothing_describes_are_not_gone_on_from(
    spec: RunSpec, reporter: Reporter, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("distil", 3), "cpu")
    (tmp_path / "checkpoints" / "resolved.json").unlink()
    with pytest.raises(RefusedError, match="another run"):
        run(spec, tmp_path, reporter, "cpu")


def test_beginning_anew_removes_nothing_before_it_can_begin(
    spec: RunSpec, reporter: Reporter, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(spec, tmp_path, killed_at("distil", 3), "cpu")
    before = sorted(path.as_posix() for path in tmp_path.rglob("*"))
    with pytest.raises(RefusedError):
        run(spec.model_copy(update={"teacher": tmp_path / "gone"}), tmp_path, reporter, "cpu", fresh=True)
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(RefusedError, match="another process"):
        run(spec, tmp_path, reporter, "cpu", fresh=True)
    os.close(other)
    assert sorted(path.as_posix() for path in tmp_path.rglob("*")) == before


def test_a_refused_student_leaves_nothing_that_stands_in_the_way(
    make_spec: MakeSpec, classifier_folder: Path, reporter: Reporter, tmp_path: Path
) -> None:
    wrong = {"init": "config", "layers": 1, "config": {"hidden_size": 7}}
    with pytest.raises(RefusedError):
        run(make_spec(teacher=classifier_folder, student=wrong), tmp_path, reporter, "cpu")
    right = {"init": "config", "layers": 1, "config": {"hidden_size": 8}}
    run(make_spec(teacher=classifier_folder, student=right), tmp_path, reporter, "cpu")
