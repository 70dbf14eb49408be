"""What `python -m mixkd estimate` says, against what a run then does."""

import json
import mmap
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from mixkd import phases
from mixkd.__main__ import main
from mixkd.contract.problems import RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.estimate import estimate as module
from mixkd.estimate import memory
from mixkd.estimate.costs import first_epoch, seconds
from mixkd.estimate.estimate import MeasurementError, estimate
from mixkd.estimate.measure import measure
from mixkd.estimate.schema import Measured, Memory, TrainingCost
from mixkd.prepare import Prepared, prepare
from mixkd.reporter import Reporter
from mixkd.resolve import choose
from mixkd.training.control import Control
from mixkd.training.state import Surroundings

MakeSpec = Callable[..., RunSpec]
CPU = torch.device("cpu")


def resolved(spec: RunSpec) -> Prepared:
    prepared = prepare(spec, CPU)
    runtime = choose(spec.recipe.runtime, CPU, prepared.teacher)
    recipe = spec.recipe.model_copy(update={"runtime": runtime})
    return replace(prepared, spec=spec.model_copy(update={"recipe": recipe}))


# -- counts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "finetune"},
        {"preset": "mixkd"},
        {"preset": "sm", "loss": {"mle_weight": 0}},  # no real row goes through the network
        {"mixup": {"ratio": 3, "partner": "set"}},
        {"mixup": {"ratio": 2}, "runtime": {"micro_batch": 3}},
    ],
)
def test_as_many_tokens_are_counted_as_go_through_the_student(
    make_spec: MakeSpec,
    classifier_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
) -> None:
    prepared = resolved(make_spec(classifier_folder, distil={"epochs": 1, "batch_size": 8}, **changes))
    recipe, rows = prepared.spec.recipe, prepared.student_sets["train"]
    steps = first_epoch(
        rows, recipe.distil, recipe.loss, recipe.mixup,
        micro_batch=recipe.runtime.micro_batch, seed=recipe.seed, stream="distil",
    )  # fmt: skip

    seen: list[int] = []
    make_student = phases.make_student

    def watched(prepared: Prepared) -> PreTrainedModel:
        def note(model: torch.nn.Module, _args: object, given: dict[str, torch.Tensor]) -> None:
            if model.training:  # evaluations are counted elsewhere
                seen.append(given["attention_mask"].numel())

        student = make_student(prepared)
        student.register_forward_pre_hook(note, with_kwargs=True)
        return student

    monkeypatch.setattr(phases, "make_student", watched)
    reporter, control = Reporter(lambda _message: None), Control()
    around = Surroundings(recipe.seed, CPU, recipe.runtime, reporter, control, tmp_path / "checkpoints")
    lesson = phases.make_lesson(prepared, tmp_path, reporter, control)
    assert phases.distil(prepared, lesson, around).outcome.steps == len(steps)
    assert sum(seen) == sum(step.padded for step in steps)
    assert sum(step.tokens for step in steps) == len(rows.tokens)


@pytest.mark.parametrize(
    ("padded", "short", "long", "wanted"),
    [
        (300, (100, 1.0), (200, 1.5), 2.0),  # on the line, whose start is 0.5 s
        (100, (200, 2.0), (200, 2.0), 1.0),  # all of one length
        (100, (100, 3.0), (200, 2.0), 2.0),  # noise: more cannot take less
        (0, (100, 0.1), (200, 2.0), 0.0),  # noise: nothing cannot take less than nothing
    ],
)
def test_the_time_of_a_step_lies_on_the_line_through_two(
    padded: int, short: tuple[int, float], long: tuple[int, float], wanted: float
) -> None:
    assert seconds(padded, short, long) == pytest.approx(wanted)


# -- a whole estimate ------------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go in this test."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_rows_that_augmenters_will_make_are_counted(make_spec: MakeSpec, tmp_path: Path) -> None:
    texts = tmp_path / "more.jsonl"
    # One is twice in the file: it counts once.
    texts.write_text("".join(json.dumps({"text": f"word{n % 20} red"}) + "\n" for n in range(21)))
    spec = make_spec().model_dump() | {"augment": [{"kind": "unlabelled", "file": texts}]}
    found = measure(RunSpec.model_validate(spec), "cpu", tmp_path / "scratch").trainings
    assert (found["teach"].rows, found["teach"].steps) == (61, 2 * 8)
    assert (found["distil"].rows, found["distil"].steps) == (81, 2 * 11)
    assert found["distil"].tokens == round(found["teach"].tokens * 11 / 8)
    assert found["distil"].training_seconds == pytest.approx(22 * found["distil"].seconds_per_step)


def test_it_says_what_a_run_takes_and_leaves_nothing_behind(
    make_spec: MakeSpec, tmp_path: Path, scratch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.json").write_text(make_spec(baselines=["kd"]).model_dump_json())
    assert main(["estimate", str(tmp_path / "spec.json"), "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert found["rows"] == {"train": 61, "validation": 17, "test": 13}
    assert set(found["trainings"]) == {"teach", "distil", "kd"}
    teach, distil, kd = found["trainings"].values()
    assert teach["steps"] == distil["steps"] == kd["steps"] == 2 * 8
    assert distil["tokens"] == teach["tokens"] < teach["padded_tokens"]
    assert distil["padded_tokens"] == 2 * kd["padded_tokens"]  # as many mixed rows as real ones
    assert found["parameters"]["student"] < found["parameters"]["teacher"]
    for cost in found["trainings"].values():
        assert 0 < cost["seconds_per_step"] <= cost["slowest_step"]
        assert cost["training_seconds"] == pytest.approx(16 * cost["seconds_per_step"])
        assert cost["evaluation_seconds"] > 0
        *parts, peak = cost["memory"].values()
        assert sum(parts) == peak
        assert min(parts) >= 0
    memory_of_kd = kd["memory"]
    assert memory_of_kd["weights"] == 4 * sum(found["parameters"].values())
    assert memory_of_kd["gradients"] == 4 * found["parameters"]["student"]
    assert memory_of_kd["optimiser"] == 8 * found["parameters"]["student"]
    assert found["seconds"] == pytest.approx(
        found["final_evaluation_seconds"]
        + sum(cost["training_seconds"] + cost["evaluation_seconds"] for cost in found["trainings"].values())
    )
    assert found["fits"]
    assert found["memory_needed"] < found["memory_available"]
    assert list(scratch.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["spec.json"]


def test_a_child_that_is_killed_for_memory_is_followed_by_one_with_half_the_rows(
    make_spec: MakeSpec, scratch: Path
) -> None:
    """This process kills it, as the kernel would."""
    spec = make_spec(teach={"epochs": 1, "batch_size": 8}, distil={"epochs": 1, "batch_size": 6})
    parent = psutil.Process()

    def kill_the_first() -> None:
        while not (
            children := [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
        ):
            time.sleep(0.02)
        while not list(scratch.glob("*/*")):  # it is at its steps
            time.sleep(0.02)
        children[0].kill()

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    found = estimate(spec, "cpu")
    killer.join()
    assert not found.fits
    assert found.micro_batch == 4
    assert found.memory_needed is None
    assert list(scratch.iterdir()) == []


def test_sigterm_ends_it_and_its_child_and_leaves_nothing_behind(
    make_spec: MakeSpec, tmp_path: Path, scratch: Path
) -> None:
    (tmp_path / "spec.json").write_text(make_spec().model_dump_json())
    command = [sys.executable, "-m", "mixkd", "estimate", str(tmp_path / "spec.json")]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            while not (left := list(scratch.iterdir())):
                time.sleep(0.02)
            children = psutil.Process(process.pid).children()
            process.terminate()
            assert process.wait(30) == 143
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert len(left) == 1
    assert list(scratch.iterdir()) == []
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_what_the_child_refuses_is_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(RefusedError, match="device: there is no device 'cuda:99' here"):
        estimate(make_spec(), "cuda:99")


# -- whether it fits -------------------------------------------------------------------------------------


def measured(peak: int, micro_batch: int | None) -> Measured:
    parts = dict.fromkeys(("process", "weights", "gradients", "optimiser", "best"), 0)
    cost = TrainingCost(
        rows=8, steps=1, tokens=8, padded_tokens=8, seconds_per_step=1, slowest_step=1,
        training_seconds=1, evaluation_seconds=1, memory=Memory(**parts, activations=peak, peak=peak),
    )  # fmt: skip
    return Measured(
        device="", precision="fp32", rows={}, parameters={}, trainings={"distil": cost},
        final_evaluation_seconds=1, free_on_gpu=None, micro_batch=micro_batch,
    )  # fmt: skip


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Let steps take so many bytes a row, of so many that there are."""

    def take(bytes_a_row: int, available: int) -> None:
        def in_child(spec: RunSpec, _device: str | None) -> Measured:
            size = spec.recipe.runtime.micro_batch
            return measured(bytes_a_row * (size or spec.recipe.distil.batch_size), size)

        monkeypatch.setattr(module, "_in_child", in_child)
        monkeypatch.setattr(memory, "available", lambda: available)

    return take


def test_what_is_larger_than_memory_gets_a_micro_batch_that_is_not(
    make_spec: MakeSpec, take: Callable[[int, int], None]
) -> None:
    spec = make_spec(distil={"batch_size": 32})
    take(10, 320)
    found = estimate(spec)
    assert (found.fits, found.micro_batch, found.memory_needed) == (True, None, 320)
    take(10, 319)
    found = estimate(spec)
    assert (found.fits, found.micro_batch, found.memory_needed) == (False, 16, 320)
    take(10, 40)
    assert estimate(spec).micro_batch == 4


def test_a_run_that_fits_in_no_way_is_said_to_run_out_of_memory(
    make_spec: MakeSpec,
    take: Callable[[int, int], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    take(10, 9)
    with pytest.raises(MeasurementError):
        estimate(make_spec())
    (tmp_path / "spec.json").write_text(make_spec().model_dump_json())
    assert main(["estimate", str(tmp_path / "spec.json")]) == 1
    assert capsys.readouterr().err.startswith("out_of_memory: not even one row at a time fits")


# -- memory ----------------------------------------------------------------------------------------------


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_the_tightest_control_group_limits_what_is_available(tmp_path: Path) -> None:
    """Of the second version: a group without a limit of its own below one that has one."""
    own = tmp_path / "own"
    own.write_text("0::/jobs/one\n")
    statistics = "anon 500\ninactive_file 100\nactive_file 7"
    group(tmp_path / "jobs", memory__max="1000", memory__current="600", memory__stat=statistics)
    group(tmp_path / "jobs" / "one", memory__max="max", memory__current="400", memory__stat=statistics)
    assert memory.available(tmp_path, own) == 1000 - 600 + 100  # the kernel drops inactive files first
    group(tmp_path / "jobs" / "one", memory__max="450")
    assert memory.available(tmp_path, own) == 450 - 400 + 100


def test_control_groups_of_the_first_version_limit_it_too(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:cpuset:/\n4:cpu,memory:/one\n0::/\n")
    group(
        tmp_path / "memory" / "one",
        memory__limit_in_bytes="1000",
        memory__usage_in_bytes="700",
        memory__stat="total_inactive_file 50",
    )
    assert memory.available(tmp_path, own) == 350


def test_without_control_groups_the_machine_is_the_limit(tmp_path: Path) -> None:
    machine = psutil.virtual_memory()
    assert 0 < memory.available(tmp_path, tmp_path / "none") <= machine.total


def test_the_peak_is_what_was_taken_since_it_was_forgotten() -> None:
    size = 64 << 20
    before = memory.resident()
    with mmap.mmap(-1, size) as taken:  # straight from the kernel: an allocator keeps what it was given back
        for page in range(0, size, mmap.PAGESIZE):
            taken[page] = 1
        assert memory.peak() >= before + size
        assert memory.resident() >= before + size
    memory.forget_peak()
    assert memory.peak() < before + size
