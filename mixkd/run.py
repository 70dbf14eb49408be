"""One distillation from its description to the student's folder, phase by phase."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import ValidationError

from mixkd.atomic import write_text
from mixkd.augment import check_augmenter
from mixkd.augment.cache import refuse_unwritable
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import DistilSpec, RunSpec
from mixkd.contract.work import RESOLVED, WORK
from mixkd.export.folder import export, weights_bytes
from mixkd.export.onnx import export_onnx, refuse_missing_packages
from mixkd.export.onnx_check import OnnxCard
from mixkd.judge import judge
from mixkd.logbook import Logbook
from mixkd.phases import Trained, compare_with, distil, make_lesson, teach, to_data_units
from mixkd.prepare import Prepared, find_device, make_student, prepare
from mixkd.report.build import build_report, describe_model, write_card, write_report
from mixkd.report.provenance import Origins, origins
from mixkd.report.schema import Report
from mixkd.reporter import Reporter
from mixkd.resolve import computing, earlier_attempt, keep, resolve, unfinished
from mixkd.training.control import Control
from mixkd.training.loop import step_count
from mixkd.training.state import Surroundings


def run(
    spec: RunSpec,
    folder: Path,
    reporter: Reporter,
    device: str | None = None,
    control: Control | None = None,
    *,
    fresh: bool = False,
) -> Report:
    """Distil: on return `folder` has `student/`, and `report.json` with `README.md` and `curves/` beside it.

    Two runs of one description on the same CPU give the same student, to the bit. A run that was killed goes
    on from its last checkpoint when it is called again with the same folder, and ends with the same student.

    Args:
        device: a torch device; the GPU if there is one, else the CPU.
        control: how others ask it to stop or to finish early.
        fresh: begin anew: what an earlier attempt left goes once it is known that this one can start.

    Raises:
        RefusedError: something in the description cannot work.
        DivergedError: a loss stopped being a finite number. Nothing is exported.
        NotFiniteError: a model that was trained answers with NaN or infinity.
        SystemExit: `control.stop` was set.
    """
    with _alone(folder):
        return _run(spec, folder, reporter, find_device(device), control or Control(), fresh=fresh)


def _run(
    spec: RunSpec, folder: Path, reporter: Reporter, where: torch.device, control: Control, *, fresh: bool
) -> Report:
    reporter.phase("prepare")
    _refuse_foreign(folder, spec)
    check_extras(spec)
    prepared = prepare(spec, where)
    if fresh:
        shutil.rmtree(folder / WORK, ignore_errors=True)
    earlier = None if fresh else earlier_attempt(folder, spec)
    resolved = resolve(spec, earlier, where, prepared.teacher)
    reporter.resolved(resolved.recipe.runtime)
    found = origins(resolved)
    # The report of an augmented run does not say which files its augmenters had.
    if earlier and not spec.augment and (report := _finished(folder, resolved.recipe, found)) is not None:
        reporter.note("this run has ended before; start over with --fresh to have it again")
        reporter.done()
        return report
    with computing(resolved.recipe.runtime):
        if resolved.recipe.student.init != "teacher":
            make_student(prepared)  # what cannot be made is refused before hours went into the teacher
        _begin_work(folder / WORK, resolved, found, reporter)
        return _phases(replace(prepared, spec=resolved), found, folder, reporter, control)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the folder itself: there is no lock file to leave behind, and the kernel lets go when we die."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(
            Problem("dir", "another process works in it", folder.name, "wait for it, or name another folder")
        ) from None


def check_extras(spec: RunSpec) -> None:
    """What `inputs.check` leaves out, since it needs the libraries: augmenters, and what writes ONNX.

    Raises:
        RefusedError: one of them cannot work.
    """
    for number, augmenter in enumerate(spec.augment):
        check_augmenter(augmenter, spec.data, f"augment.{number}")
    if spec.augment:
        refuse_unwritable(cache_folder() / "augmented")
    if spec.recipe.onnx:
        refuse_missing_packages()


def _refuse_foreign(folder: Path, spec: RunSpec) -> None:
    """What a run writes replaces what has the same name: it must not be an input, or somebody's own."""
    inside = (folder / "student").resolve()
    for field, path in (("teacher", spec.teacher), ("student", spec.student)):
        if path is not None and (path.resolve() == inside or inside in path.resolve().parents):
            raise RefusedError(
                Problem("dir", f"its `student` is this run's own {field}", folder.name, "name another folder")
            )
    files, folders = (RESOLVED, "report.json", "README.md"), ("student", "curves", WORK)
    odd = [name for name in files if (folder / name).is_dir()]
    odd += [name for name in folders if (folder / name).exists() and not (folder / name).is_dir()]
    ours = (folder / RESOLVED).exists() or (folder / "report.json").exists() or unfinished(folder)
    theirs = odd or [
        name for name in ("student", "curves", "README.md") if not ours and (folder / name).exists()
    ]
    if theirs:
        raise RefusedError(
            Problem("dir", f"it holds `{theirs[0]}`, which no run has made there", folder.name,
                    "name a new folder")
        )  # fmt: skip


def _clear_away(folder: Path) -> None:
    """Remove what an export that was killed here left, and what is of the student that will be replaced."""
    for name in (RESOLVED, "report.json", "README.md"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "curves", ignore_errors=True)
    # `mkdtemp` ends its names in eight characters.
    for left in folder.glob(".student-????????*"):
        if re.fullmatch(r"\.student-[a-z0-9_]{8}(-old)?", left.name):
            shutil.rmtree(left, ignore_errors=True)


def _finished(folder: Path, recipe: DistilSpec, found: Origins) -> Report | None:
    """The report of a run that ended well on the same files; None: there is none."""
    path = folder / "report.json"
    student = folder / "student"
    if unfinished(folder) or not all(
        each.is_file() for each in (path, student / "config.json", student / "model.safetensors")
    ):
        return None
    try:
        report = Report.model_validate_json(path.read_bytes())
    except ValidationError:  # of another release
        return None
    made_of = (report.recipe, report.data.files, report.fingerprints)
    return report if made_of == (recipe, found.files, found.models) else None


def _begin_work(work: Path, resolved: RunSpec, found: Origins, reporter: Reporter) -> None:
    """Note what is worked on, before the first checkpoint. Whoever goes on must go on from the same files."""
    path = work / "origins.json"
    if path.exists():
        try:
            before = Origins.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            before = None  # torn, or of another release: it cannot be told what the work was made from
        if before is None or before.model_copy(update={"versions": found.versions}) != found:
            raise RefusedError(
                Problem("dir", "the data or a model has changed since the run was interrupted",
                        work.parent.name, "bring the old files back, or start over with --fresh")
            )  # fmt: skip
        if before.versions != found.versions:  # they may round in another way
            reporter.note("libraries have changed since the run was interrupted: the last bits may differ")
    work.mkdir(exist_ok=True)
    keep(resolved, work)
    write_text(path, found.model_dump_json(indent=2) + "\n")


def _phases(prepared: Prepared, found: Origins, folder: Path, reporter: Reporter, control: Control) -> Report:
    spec, work = prepared.spec, folder / WORK
    logbook = Logbook(work / "metrics.jsonl")
    reporter = reporter.heard_by(logbook.note).heard_by(control.hear)

    def around(training: str) -> Surroundings:
        runtime = spec.recipe.runtime
        return Surroundings(spec.recipe.seed, prepared.device, runtime, reporter, control, work / training)

    if control.finish_now:  # the next phase begins without that wish
        reporter.note("asked to finish before anything was trained: there is nothing to keep yet")
    taught = teach(prepared, around("teach"))
    lesson = make_lesson(prepared, cache_folder() / "augmented", reporter, control)
    student = distil(prepared, lesson, around("distil"))
    baselines = compare_with(prepared, lesson, student, around)

    reporter.phase("evaluate")
    to_data_units(prepared, [prepared.teacher, student.model, *(one.model for one in baselines.values())])
    judged = judge(prepared, student.model, baselines)

    reporter.phase("export")
    _clear_away(folder)
    # Where texts are cut is a part of what the student has learned.
    prepared.student_tokenizer.model_max_length = spec.recipe.max_length
    export(student.model, prepared.student_tokenizer, folder / "student")
    models = {"teacher": prepared.teacher, "student": student.model}
    cards = {
        name: describe_model(model, weights_bytes(model), judged.speeds[name])
        for name, model in models.items()
    }
    report = build_report(
        spec,
        origins=found,
        checked=prepared.checked,
        labels=prepared.labels,
        used=prepared.used,
        teacher=cards["teacher"],
        student=cards["student"],
        mixed_at=judged.mixed_at,
        targets_by_set=judged.targets,
        answers_by_set=judged.answers,
        taught=taught,
        distilled=student.outcome,
        baselines={name: one.outcome for name, one in baselines.items()},
        augmented=lesson.augmented,
        curves=logbook.points(
            spec.recipe.baselines,
            step_count(len(lesson.student_rows), spec.recipe.distil),
            {"teach": taught.steps if taught else 0, "distil": student.outcome.steps}
            | {name: one.outcome.steps for name, one in baselines.items()},
        ),
        onnx=_onnx(prepared, student, folder / "student"),
        device=prepared.device,
    )
    write_card(report, folder / "student")
    write_report(report, folder)
    keep(spec, folder)
    shutil.rmtree(work, ignore_errors=True)
    reporter.done()
    return report


def cache_folder() -> Path:
    """Where what was made once is kept for other runs: `$MIXKD_CACHE`, or `~/.cache/mixkd`."""
    named = os.environ.get("MIXKD_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "mixkd"


def _onnx(prepared: Prepared, student: Trained, folder: Path) -> Sequence[OnnxCard]:
    if not prepared.spec.recipe.onnx:
        return ()
    rows = prepared.student_sets[prepared.used.judged_on]
    return export_onnx(student.model, rows, folder, task=prepared.task, metrics=prepared.metrics)
