"""One distillation from its description to the student's folder, phase by phase."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mixkd.augment import check_augmenter
from mixkd.contract.spec import RunSpec
from mixkd.control import Control
from mixkd.export import export, weights_bytes
from mixkd.judge import judge
from mixkd.logbook import Logbook
from mixkd.onnx_check import OnnxCard
from mixkd.onnx_export import export_onnx, refuse_missing_packages
from mixkd.phases import Trained, compare_with, distil, leave, make_lesson, teach
from mixkd.prepare import Prepared, find_device, prepare
from mixkd.report import build_report, describe_model, write_card, write_report
from mixkd.report_schema import Report
from mixkd.reporter import Reporter
from mixkd.resolve import computing, resolve
from mixkd.train import Surroundings, step_count


def run(
    spec: RunSpec,
    folder: Path,
    reporter: Reporter,
    device: str | None = None,
    control: Control | None = None,
) -> Report:
    """Distil: on return `folder` has `student/`, and `report.json` with `README.md` and `curves/` beside it.

    Two runs of one description on the same CPU give the same student, to the bit. A run that was killed goes
    on from its last checkpoint when it is called again with the same folder, and ends with the same student.

    Args:
        device: a torch device; the GPU if there is one, else the CPU.
        control: how others ask it to stop or to finish early.

    Raises:
        RefusedError: something in the description cannot work.
        DivergedError: a loss stopped being a finite number. Nothing is exported.
        SystemExit: `control.stop` was set.
    """
    where = find_device(device)
    reporter.phase("prepare")
    for number, augmenter in enumerate(spec.augment):
        check_augmenter(augmenter, spec.data, f"augment.{number}")
    if spec.recipe.onnx:
        refuse_missing_packages()
    prepared = prepare(spec, where)
    resolved = resolve(spec, folder, where, prepared.teacher)
    reporter.resolved(resolved.recipe.runtime)
    with computing(resolved.recipe.runtime):
        return _phases(replace(prepared, spec=resolved), folder, reporter, control or Control())


def _phases(prepared: Prepared, folder: Path, reporter: Reporter, control: Control) -> Report:
    spec, work = prepared.spec, folder / "checkpoints"
    logbook = Logbook(work / "metrics.jsonl")
    reporter = reporter.heard_by(logbook.note)

    def around(training: str) -> Surroundings:
        runtime = spec.recipe.runtime
        return Surroundings(spec.recipe.seed, prepared.device, runtime, reporter, control, work / training)

    taught = teach(prepared, around("teach"))
    lesson = make_lesson(prepared, cache_folder() / "augmented", reporter, control)
    student = distil(prepared, lesson, around("distil"))
    baselines = compare_with(prepared, lesson, student, around)

    reporter.phase("evaluate")
    leave(prepared, [prepared.teacher, student.model, *(one.model for one in baselines.values())])
    judged = judge(prepared, student.model, baselines)

    reporter.phase("export")
    export(student.model, prepared.student_tokenizer, folder / "student")
    models = {"teacher": prepared.teacher, "student": student.model}
    cards = {
        name: describe_model(model, weights_bytes(model), judged.speeds[name])
        for name, model in models.items()
    }
    report = build_report(
        spec,
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
        curves=logbook.points(list(baselines), step_count(len(lesson.student_rows), spec.recipe.distil)),
        onnx=_onnx(prepared, student, folder / "student"),
        device=prepared.device,
    )
    write_card(report, folder / "student")
    write_report(report, folder)
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
