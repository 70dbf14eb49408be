"""A few real steps of a run, timed and weighed: what they say about all of its steps.

The steps are those of the trainings themselves (`mixkd.phases`), on batches of two lengths: that of the step
that costs most and of the median one. The rows of such a batch are one row over and over: they cost what the
batch costs whose rows are padded to it. A process that measures ought to do nothing else, before or after.
"""

import ctypes
import gc
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from mixkd import phases
from mixkd.augment import most_rows
from mixkd.contract.data_spec import SetName
from mixkd.contract.spec import RunSpec, TrainSpec
from mixkd.data import Encoded, take
from mixkd.estimate import memory
from mixkd.estimate.costs import Step, first_epoch, seconds
from mixkd.estimate.schema import Measured, Memory, TrainingCost
from mixkd.evaluate import answers
from mixkd.prepare import Prepared, find_device, make_student, prepare
from mixkd.report.provenance import device_name
from mixkd.reporter import Reporter
from mixkd.resolve import choose, computing
from mixkd.training.control import Control
from mixkd.training.loop import evaluation_steps, step_count
from mixkd.training.state import Surroundings

_STEPS = 4  # of a measurement; the first one sets things up and is not timed
_PATIENCE = 10.0  # seconds, after which two timed steps must do
_ANSWERED = 256  # rows that are answered to time an evaluation


@dataclass
class _Bench:
    """A training whose steps are tried out."""

    name: str  # `teach`, `distil`, or a baseline's
    prepared: Prepared
    sizes: Mapping[str, int]  # bytes of the models' weights
    scratch: Path
    micro_batch: int | None  # rows at once; fewer than asked once memory ran out
    made: int  # rows that augmenters add at the most

    @property
    def learner(self) -> str:
        """`teacher` or `student`."""
        return "teacher" if self.name == "teach" else "student"

    @property
    def spec(self) -> TrainSpec:
        recipe = self.prepared.spec.recipe
        return recipe.teach if self.name == "teach" else recipe.distil

    @property
    def sets(self) -> Mapping[SetName, Encoded]:
        """As the learner's tokenizer cuts them."""
        return self.prepared.teacher_sets if self.name == "teach" else self.prepared.student_sets

    def epoch(self) -> list[Step]:
        """The steps of the first epoch."""
        recipe, teaches = self.prepared.spec.recipe, self.name == "teach"
        return first_epoch(
            self.sets["train"],
            self.spec,
            phases.FINETUNE if teaches else recipe.loss,
            recipe.mixup,
            micro_batch=recipe.runtime.micro_batch,
            seed=recipe.seed,
            stream="teach" if teaches else "distil",
        )


def measure(spec: RunSpec, device: str | None, scratch: Path) -> Measured:
    """Prepare a run and make a few of its steps. What is left in `scratch` nobody needs.

    Raises:
        RefusedError: something in the description cannot work.
        DivergedError: a loss or an answer is not finite from the start.
    """
    where = find_device(device)
    free = torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else None
    prepared = prepare(spec, where)
    runtime = choose(spec.recipe.runtime, where, prepared.teacher)
    recipe = spec.recipe.model_copy(update={"runtime": runtime})
    made = most_rows(prepared.rows["train"], spec.augment, spec.data)
    # What augmenters would make is not there yet; it is counted as if it were like what is.
    prepared = replace(prepared, spec=spec.model_copy(update={"recipe": recipe, "augment": ()}))
    with computing(runtime):
        student = make_student(prepared)
        models = {"teacher": prepared.teacher, "student": student}
        parameters = {name: sum(w.numel() for w in model.parameters()) for name, model in models.items()}
        sizes = {
            name: sum(w.numel() * w.element_size() for w in model.parameters())
            for name, model in models.items()
        }
        answering = {
            "teacher": _answering(prepared.teacher, prepared.teacher_sets["train"], prepared),
            "student": _answering(student, prepared.student_sets["train"], prepared),
        }
        del models, student
        benches = [
            _Bench(name, variant, sizes, scratch / name, runtime.micro_batch, 0 if name == "teach" else made)
            for name, variant in _variants(prepared)
        ]
        trainings = {bench.name: _cost(bench, answering) for bench in benches}
    return Measured(
        device=device_name(where),
        precision=runtime.precision,
        rows=prepared.used.rows,
        parameters=parameters,
        trainings=trainings,
        final_evaluation_seconds=_final_evaluation(prepared, answering),
        free_on_gpu=free,
        micro_batch=_smallest(bench.micro_batch for bench in benches),
    )


def _variants(prepared: Prepared) -> Iterator[tuple[str, Prepared]]:
    """The trainings of a run. A baseline is the student's, with another loss."""
    recipe = prepared.spec.recipe
    if prepared.needs_teaching:
        yield "teach", prepared
    yield "distil", prepared
    for name in recipe.baselines:
        yield name, _changed(prepared, loss=phases.baseline_loss(recipe.loss, name))


def _changed(prepared: Prepared, **fields: object) -> Prepared:
    recipe = prepared.spec.recipe.model_copy(update=fields)
    return replace(prepared, spec=prepared.spec.model_copy(update={"recipe": recipe}))


# -- one training ----------------------------------------------------------------------------------------


def _cost(bench: _Bench, answering: Mapping[str, float]) -> TrainingCost:
    steps = sorted(bench.epoch(), key=lambda step: step.padded)
    usual, largest = steps[len(steps) // 2], steps[-1]
    weighed, long = _weigh(bench, largest)
    short = long if usual.padded == largest.padded else _try(bench, usual)
    each = [seconds(step.padded, short, long) for step in steps]
    rows = len(bench.sets["train"]) + bench.made
    in_all = step_count(rows, bench.spec)
    times = in_all / len(steps)
    evaluations = len(evaluation_steps(in_all // bench.spec.epochs, bench.spec))
    return TrainingCost(
        rows=rows,
        steps=in_all,
        tokens=round(times * sum(step.tokens for step in steps)),
        padded_tokens=round(times * sum(step.padded for step in steps)),
        seconds_per_step=sum(each) / len(each),
        slowest_step=max(each),
        training_seconds=times * sum(each),
        evaluation_seconds=evaluations * answering[bench.learner] * len(bench.sets["validation"].tokens),
        memory=weighed,
    )


def _weigh(bench: _Bench, step: Step) -> tuple[Memory, tuple[int, float]]:
    """The memory that a step takes; its padded tokens and seconds."""
    device, teacher, learner = bench.prepared.device, bench.sizes["teacher"], bench.sizes[bench.learner]
    on_cpu = device.type == "cpu"
    _release(device)
    process = memory.resident() - teacher if on_cpu else 0
    took = _try(bench, step)
    known = {
        "process": process,
        "weights": learner if bench.name == "teach" else teacher + learner,
        "gradients": learner,
        "optimiser": 2 * learner,
        "best": learner if on_cpu else 0,
    }
    peak = memory.peak() if on_cpu else torch.cuda.max_memory_reserved(device)
    # What is counted is more than was seen where the process used again what it had been freed of before.
    peak = max(peak, sum(known.values()))
    return Memory(**known, activations=peak - sum(known.values()), peak=peak), took


def _release(device: torch.device) -> None:
    """Give back what nobody needs any more, and look for the peak from here on."""
    gc.collect()
    if device.type == "cpu":
        with suppress(AttributeError):  # glibc alone has it
            ctypes.CDLL(None).malloc_trim(0)
        memory.forget_peak()
    else:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _try(bench: _Bench, step: Step) -> tuple[int, float]:
    """Make a few steps that cost what this one does: its padded tokens, and the seconds of one."""
    size = len(step.rows)
    longest = int(step.rows[bench.sets["train"].lengths[step.rows].argmax()])
    few = bench.spec.model_copy(update={"epochs": 1, "evaluations_per_epoch": 1, "batch_size": size})
    prepared = _changed(bench.prepared, **{"teach" if bench.name == "teach" else "distil": few})
    prepared = replace(
        prepared,
        teacher_sets=_over_and_over(prepared.teacher_sets, longest, _STEPS * size),
        student_sets=_over_and_over(prepared.student_sets, longest, _STEPS * size),
    )
    tried = replace(bench, prepared=prepared)
    control = Control()
    watch = _Stopwatch(control)
    around = Surroundings(
        seed=prepared.spec.recipe.seed,
        device=prepared.device,
        # No checkpoint comes between two steps.
        runtime=prepared.spec.recipe.runtime.model_copy(update={"checkpoint_seconds": 86400}),
        reporter=watch,
        control=control,
        checkpoints=bench.scratch / str(longest),
    )
    if bench.name == "teach":
        outcome = phases.teach(prepared, around)
        assert outcome is not None
    else:
        lesson = phases.make_lesson(prepared, bench.scratch, watch, control)
        outcome = phases.distil(prepared, lesson, around).outcome
    bench.micro_batch = _smallest([bench.micro_batch, outcome.micro_batch])
    return tried.epoch()[0].padded, watch.seconds()


def _over_and_over(sets: Mapping[SetName, Encoded], row: int, count: int) -> Mapping[SetName, Encoded]:
    """One training row `count` times, and a validation row, so that evaluating costs nothing."""
    return {
        "train": take(sets["train"], np.full(count, row)),
        "validation": take(sets["validation"], np.zeros(1, dtype=np.int64)),
    }


def _smallest(sizes: Iterable[int | None]) -> int | None:
    """Of numbers of rows at once; None is the whole batch."""
    return min((size for size in sizes if size is not None), default=None)


class _Stopwatch(Reporter):
    """Notes when each step was made."""

    def __init__(self, control: Control) -> None:
        super().__init__(lambda _message: None)
        self._control = control
        self._times: list[float] = []

    def step(self, step: int, loss: float, rows: int) -> None:
        """A step was made."""
        del step, loss, rows
        self._times.append(time.perf_counter())
        if len(self._times) > 2 and self._times[-1] - self._times[0] > _PATIENCE:
            self._control.finish_now = True

    def seconds(self) -> float:
        """Of one step; the first one does not count."""
        return float(np.median(np.diff(self._times)))


# -- answers ---------------------------------------------------------------------------------------------


def _answering(model: PreTrainedModel, rows: Encoded, prepared: Prepared) -> float:
    """Seconds that a model takes for a token of rows of every length."""
    precision = prepared.spec.recipe.runtime.precision
    assert precision != "auto"
    places = np.linspace(0, len(rows) - 1, min(len(rows), _ANSWERED)).astype(np.int64)
    sample = take(rows, np.argsort(rows.lengths, kind="stable")[places])
    answers(model, take(sample, np.arange(1)), prepared.device, precision)  # the first call sets things up
    started = time.perf_counter()
    answers(model, sample, prepared.device, precision)
    return (time.perf_counter() - started) / len(sample.tokens)


def _final_evaluation(prepared: Prepared, answering: Mapping[str, float]) -> float:
    students = 1 + len(prepared.spec.recipe.baselines)
    return sum(
        answering["teacher"] * len(prepared.teacher_sets[name].tokens)
        + answering["student"] * len(prepared.student_sets[name].tokens) * students
        for name in prepared.rows
        if name != "train"
    )
