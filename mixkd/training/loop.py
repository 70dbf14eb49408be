"""The one training loop, for the teacher, the student and the baselines."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mixkd.batching import Indices, batch_count, epoch_batches, parts
from mixkd.classifier import autocast
from mixkd.contract.messages import Phase
from mixkd.contract.spec import MixupSpec, TrainSpec
from mixkd.contract.work import FINISHED
from mixkd.data import Encoded
from mixkd.evaluate import validate
from mixkd.failures import DivergedError, NotFiniteError, is_out_of_memory
from mixkd.metrics import Scores, is_better
from mixkd.mixup import Drawn, draw_pairs
from mixkd.objectives import Objective
from mixkd.randomness import generator, seed_torch
from mixkd.training.checkpoint import MODEL, NotWrittenError
from mixkd.training.control import Control
from mixkd.training.optimiser import rate_at, set_rate
from mixkd.training.state import Outcome, State, Stopped, Surroundings, TrainData, Training, begin, save

MOST_WRITING = 0.02  # of a training's time, on checkpoints


def train(
    phase: Phase,
    model: PreTrainedModel,
    objective: Objective,
    data: TrainData,
    spec: TrainSpec,
    *,
    mixup: MixupSpec | None,
    around: Surroundings,
    stream: str | None = None,
    first_step: int | None = None,
) -> Outcome:
    """Train `model` in place and leave it with the weights of its best evaluation on the validation rows.

    AdamW, a warm-up and a schedule, gradients clipped by their norm. A training that was killed goes on from
    its last checkpoint when it is called with the same arguments, and on the same CPU it ends with the same
    bits as if nothing had happened; a finished one is not done again.

    Args:
        mixup: None: no rows are mixed.
        stream: the name of its random streams, instead of the phase's: two trainings of one stream see the
            same batches, pairs and λ.
        first_step: where its steps begin in a phase of several trainings, which the caller has announced.

    Raises:
        DivergedError: a loss, a gradient or, at an evaluation, an answer was not finite.
        SystemExit: `around.control.stop` was set; the last step is in a checkpoint.
    """
    steps_an_epoch = batch_count(len(data.train), spec.batch_size)
    steps = spec.epochs * steps_an_epoch
    evaluations = evaluation_steps(steps_an_epoch, spec)
    metric_every = max(5, steps // 200)
    if first_step is None:
        around.reporter.phase(phase, steps)
    training = begin(
        phase,
        model,
        data,
        spec,
        mixup=mixup,
        around=around,
        stream=stream or phase,
        first_step=first_step or 0,
    )
    state = training.state
    if state.outcome is not None:
        return state.outcome

    around.reporter.goes_on(training.step_shown)
    now = time.monotonic()
    started, due = now - state.seconds, now + around.runtime.checkpoint_seconds
    batches = _batches(training)
    with around.control.training():
        while (stopped := _why_stopped(state, steps, spec, around.control)) is None:
            around.control.await_lease()
            rows = next(batches)
            rng = generator(around.seed, training.stream, "pairs", state.step)
            drawn = draw_pairs(rows, len(data.train), mixup, rng) if mixup else None
            terms = _gradients(training, objective, rows, drawn)

            rate = rate_at(state.step, steps, spec)
            values = _clip(training, terms)
            if all(math.isfinite(value) for value in values.values()):
                set_rate(training.optimiser, rate)
                training.optimiser.step()
                state.add({**values, "learning_rate": rate})
            elif not math.isfinite(values["loss"]) or training.scaler.get_scale() <= 1:
                raise DivergedError(phase, state.step + 1, rate, training.saved)
            # Else fp16 overflowed: the step is left out, and the next ones are scaled with more caution.
            state.step += 1
            around.reporter.step(training.step_shown, values["loss"], rows=len(rows))

            if state.step in evaluations:
                _evaluate(training, rate)
            elif state.step % metric_every == 0:
                around.reporter.metric(training.step_shown, state.take_means())
            state.seconds = time.monotonic() - started
            if around.control.stop or time.monotonic() >= due:
                due = _write(training)
                around.control.leave_if_asked()

        if state.step not in evaluations:  # it was asked to finish between two
            _evaluate(training, rate_at(state.step - 1, steps, spec))
        around.control.finish_now = False  # granted; the next training begins without that wish
        state.seconds = time.monotonic() - started
        return _finish(training, stopped)


def _write(training: Training) -> float:
    """Write a checkpoint; when the next one is due, so that writing them takes a small share of the time."""
    every, began = training.around.runtime.checkpoint_seconds, time.monotonic()
    save(training)
    took = time.monotonic() - began
    training.state.writing += took
    return began + took + (max(every, took / MOST_WRITING - took) if every else 0)


def step_count(rows: int, spec: TrainSpec) -> int:
    """Steps of a training on so many rows, if nothing ends it early."""
    return spec.epochs * batch_count(rows, spec.batch_size)


def evaluation_steps(steps_an_epoch: int, spec: TrainSpec) -> set[int]:
    """The steps, counted from 1, that an evaluation follows: evenly spaced, the last of each epoch too."""
    times = spec.evaluations_per_epoch
    within = {-(-steps_an_epoch * number // times) for number in range(1, times + 1)}
    return {epoch * steps_an_epoch + step for epoch in range(spec.epochs) for step in within}


def _why_stopped(state: State, steps: int, spec: TrainSpec, control: Control) -> Stopped | None:
    if state.step == steps:
        return "end"
    if spec.patience is not None and state.misses >= spec.patience:
        return "early"
    return "asked" if control.finish_now and state.step else None  # untrained weights are nobody's wish


def _batches(training: Training) -> Iterator[Indices]:
    """The rows of each step that is left."""
    lengths, spec = training.data.train.lengths, training.spec
    epochs_done, steps_done = divmod(training.state.step, batch_count(len(lengths), spec.batch_size))
    for epoch in range(epochs_done + 1, spec.epochs + 1):
        rng = generator(training.around.seed, training.stream, "batches", epoch)
        yield from epoch_batches(lengths, spec.batch_size, rng)[steps_done:]
        steps_done = 0


def _gradients(
    training: Training, objective: Objective, rows: Indices, drawn: Drawn | None
) -> dict[str, Tensor]:
    """Accumulate the gradients of a batch, in smaller parts from now on if memory runs out: loss terms."""
    state, around = training.state, training.around
    while True:
        training.optimiser.zero_grad()
        try:
            return _accumulate(training, objective, rows, drawn)
        except (MemoryError, RuntimeError) as error:
            size = min(state.micro_batch or len(rows), len(rows))
            if size == 1 or not is_out_of_memory(error):
                raise
        if around.device.type == "cuda":  # after the handler, whose error held on to the step's tensors
            torch.cuda.empty_cache()
        state.micro_batch = size // 2
        state.notes.append(
            f"memory ran out at step {training.step_shown + 1} of {training.phase}: from there on "
            f"{state.micro_batch} rows at once, with their gradients added up to the same batch"
        )
        around.reporter.note(state.notes[-1])


def _accumulate(
    training: Training, objective: Objective, rows: Indices, drawn: Drawn | None
) -> dict[str, Tensor]:
    around, step = training.around, training.state.step
    total: dict[str, Tensor] = {}
    training.model.train()
    for number, part in enumerate(parts(rows, drawn, training.state.micro_batch)):
        seed_torch(around.seed, training.stream, "dropout", step, number)
        with autocast(around.device, around.precision):
            terms = objective(part)
        training.scaler.scale(terms["loss"] * part.share).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, value in terms.items():
            share = value.detach() * part.share
            total[name] = total[name] + share if name in total else share
    return total


def _clip(training: Training, terms: dict[str, Tensor]) -> dict[str, float]:
    """Undo the scale of fp16, clip the gradients; the numbers of the step, with one wait for the device."""
    training.scaler.unscale_(training.optimiser)
    norm = torch.nn.utils.clip_grad_norm_(training.model.parameters(), training.spec.max_grad_norm)
    training.scaler.update()  # a smaller scale, if a gradient was not finite
    numbers = torch.stack([value.detach().float() for value in (*terms.values(), norm)]).tolist()
    return dict(zip((*terms, "gradient_norm"), numbers, strict=True))


def _evaluate(training: Training, rate: float) -> None:
    """Score the model on the validation rows, and keep its weights if they are the best so far."""
    state, data = training.state, training.data
    try:
        scores = _scores(training, data.validation)
    except NotFiniteError as error:  # no further step can be made
        raise DivergedError(training.phase, state.step + 1, rate, training.saved) from error
    # In one message with the means: a metric of the same step would replace this one.
    shown = {f"validation_{name}": value for name, value in scores.items()}
    training.around.reporter.metric(training.step_shown, {**state.take_means(), **shown})
    if state.best is not None and not is_better(data.metrics[0], scores, state.best):
        state.misses += 1
        return
    state.best, state.best_step, state.misses = scores, state.step, 0
    training.best = {
        name: value.detach().to("cpu", copy=True) for name, value in training.model.state_dict().items()
    }


def _scores(training: Training, rows: Encoded) -> Scores:
    data, around = training.data, training.around
    return validate(training.model, rows, data.task, data.metrics, around.device, precision=around.precision)


def _finish(training: Training, stopped: Stopped) -> Outcome:
    """Go back to the best weights and write down what they are worth."""
    state, data, model = training.state, training.data, training.model
    assert state.best is not None
    training.optimiser.zero_grad()  # a taught teacher would keep gradients as large as itself
    model.load_state_dict(training.best)
    steps_an_epoch = batch_count(len(data.train), training.spec.batch_size)
    state.outcome = Outcome(
        steps=state.step,
        epochs=-(-state.step // steps_an_epoch),
        best_step=state.best_step,
        best_epoch=-(-state.best_step // steps_an_epoch),
        validation=state.best,
        seconds=state.seconds,
        writing_seconds=state.writing,
        stopped=stopped,
        micro_batch=state.micro_batch,
        notes=tuple(state.notes),
    )
    try:
        training.checkpoints.write(FINISHED, {MODEL: model.state_dict()}, state.model_dump(mode="json"))
    except NotWrittenError as error:
        training.around.reporter.note(f"no checkpoint could be written after {training.phase}: {error}")
    else:
        training.around.reporter.checkpoint(training.step_shown)
    return state.outcome
