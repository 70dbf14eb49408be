"""What a run takes, told before it runs: steps, tokens, memory, time, and whether it fits. Needs no torch.

The numbers come from a few real steps, made by a child process (`measure`): whatever memory they take, this
process keeps none of it, and if there is not enough, only the child ends.
"""

import multiprocessing
import signal
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from mixkd.contract.messages import Failed
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.estimate import memory
from mixkd.estimate.schema import Estimate, Measured
from mixkd.failures import explain
from mixkd.parent import die_with_parent
from mixkd.quiet import quiet_libraries


class MeasurementError(Exception):
    """The steps could not be made. `failed` says why."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.detail)
        self.failed = failed


def estimate(spec: RunSpec, device: str | None = None) -> Estimate:
    """Try a run out, with fewer and fewer rows at once until it fits. Nothing is left on the disk.

    Raises:
        RefusedError: something in the description cannot work.
        MeasurementError: not even one row at once fits, or the run would fail from its start.
    """
    needed: int | None = None
    asked = size = spec.recipe.runtime.micro_batch
    largest = max(spec.recipe.teach.batch_size, spec.recipe.distil.batch_size)
    while True:
        available = memory.available()
        measured = _in_child(_with_micro_batch(spec, size), device)
        if measured is not None and measured.micro_batch == size:
            available = available if measured.free_on_gpu is None else measured.free_on_gpu
            peak = max(training.memory.peak for training in measured.trainings.values())
            needed = peak if size == asked else needed
            if peak <= available:
                return _judge(measured, needed, available, fits=size == asked)
        if size == 1:
            raise MeasurementError(
                Failed(cause="out_of_memory", detail="not even one row at a time fits into memory",
                       field="recipe.max_length", remedy="lower `max_length` or use smaller models")
            )  # fmt: skip
        size = min(size or largest, largest) // 2


def _judge(measured: Measured, needed: int | None, available: int, *, fits: bool) -> Estimate:
    trainings = measured.trainings.values()
    return Estimate(
        **{name: getattr(measured, name) for name in Measured.model_fields},
        seconds=measured.final_evaluation_seconds
        + sum(training.training_seconds + training.evaluation_seconds for training in trainings),
        memory_needed=needed,
        memory_available=available,
        fits=fits,
    )


def _with_micro_batch(spec: RunSpec, size: int | None) -> RunSpec:
    runtime = spec.recipe.runtime.model_copy(update={"micro_batch": size})
    return spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"runtime": runtime})})


def _in_child(spec: RunSpec, device: str | None) -> Measured | None:
    """What a child measures; None if memory ran out."""
    context = multiprocessing.get_context("spawn")  # a fork would have whatever this process has
    receiving, sending = context.Pipe(duplex=False)
    # A child that is killed cannot tidy up.
    with tempfile.TemporaryDirectory(prefix="mixkd-estimate-") as scratch, receiving:
        child = context.Process(target=_measure, args=(spec, device, Path(scratch), sending))
        # Whoever ends us between the child's birth and its orders would leave it reading from nobody.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        child.start()
        sending.close()
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            found = receiving.recv()
        except EOFError:
            found = None
        except BaseException:  # interrupted: nobody waits for it any more
            child.kill()
            raise
        finally:
            child.join()
    if isinstance(found, Measured) or (found is None and child.exitcode == -signal.SIGKILL):
        return found
    if isinstance(found, list):
        raise RefusedError(*found)
    if found is None:
        found = Failed(cause="internal", detail=f"the process that measured ended with {child.exitcode}")
    if found.cause == "out_of_memory":
        return None
    raise MeasurementError(found)


def _measure(spec: RunSpec, device: str | None, scratch: Path, sending: Connection) -> None:
    """In the child: send `Measured`, the problems of a refusal, or `Failed`."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_SETMASK, set())  # the parent held them while it started us
    memory.die_first()
    found: Measured | list[Problem] | Failed
    try:
        quiet_libraries()
        from mixkd.estimate.measure import measure

        found = measure(spec, device, scratch)
    except RefusedError as refused:
        found = list(refused.problems)
    except Exception as error:
        found = explain(error)
        if found.cause == "internal":
            traceback.print_exc()
    sending.send(found)
