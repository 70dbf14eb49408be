"""What a run takes, told before it runs: steps, tokens, memory, time, and whether it fits. Needs no torch.

The numbers come from a few real steps, made by a child process (`mixkd.measure`): whatever memory they take,
this process keeps none of it, and if there is not enough, only the child ends.
"""

import multiprocessing
import signal
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from pydantic import Field

from mixkd import memory
from mixkd.contract.data_spec import SetName
from mixkd.contract.messages import Failed
from mixkd.contract.problems import Problem, RefusedError
from mixkd.contract.spec import RunSpec
from mixkd.contract.strict import Strict
from mixkd.failures import explain
from mixkd.parent import die_with_parent
from mixkd.quiet import quiet_libraries


class Memory(Strict):
    """Bytes on the device at the most, while something is trained; all others together are the `peak`."""

    process: int = Field(description="the process with its libraries and the data; 0 on a GPU")
    weights: int = Field(description="of the model that learns and of the one that teaches it")
    gradients: int
    optimiser: int = Field(description="the two moments of AdamW")
    best: int = Field(description="the best weights so far, which wait on the CPU; 0 on a GPU")
    activations: int = Field(description="the rest")
    peak: int = Field(description="measured, over a few steps of the batch that takes most")


class TrainingCost(Strict):
    """What one training takes, if nothing ends it early."""

    rows: int
    steps: int
    tokens: int = Field(description="of the rows, in all steps")
    padded_tokens: int = Field(description="that go through the network: padding and mixed rows too")
    seconds_per_step: float = Field(description="on average")
    slowest_step: float = Field(description="seconds, of the batch that takes most")
    training_seconds: float
    evaluation_seconds: float = Field(description="of all evaluations on the validation rows")
    memory: Memory


class Measured(Strict):
    """What a run takes, as far as a few steps on this device tell."""

    device: str
    precision: str
    rows: dict[SetName, int] = Field(description="of each set; those that augmenters make are not counted")
    parameters: dict[str, int] = Field(description="of `teacher` and `student`")
    trainings: dict[str, TrainingCost] = Field(description="`teach`, `distil`, and the baselines by name")
    final_evaluation_seconds: float = Field(description="of every model on every set but `train`")
    free_on_gpu: int | None = Field(description="bytes, before anything was loaded; null on a CPU")
    micro_batch: int | None = Field(description="rows at once, in these numbers; null: the whole batch")


class Estimate(Measured):
    """What a run takes, and whether it fits. If not, the other numbers are of a smaller micro-batch."""

    seconds: float = Field(description="of trainings and evaluations; loading and exporting come on top")
    memory_needed: int | None = Field(
        description="bytes, as the recipe is; null: more than could be measured"
    )
    memory_available: int = Field(description="bytes, of the GPU, or of the machine and its control groups")
    fits: bool = Field(description="as the recipe is; if not, set `recipe.runtime.micro_batch` as said here")


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
        child.start()
        sending.close()
        try:
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
    memory.die_first()
    found: Measured | list[Problem] | Failed
    try:
        quiet_libraries()
        from mixkd.measure import measure

        found = measure(spec, device, scratch)
    except RefusedError as refused:
        found = list(refused.problems)
    except Exception as error:
        found = explain(error)
        if found.cause == "internal":
            traceback.print_exc()
    sending.send(found)
