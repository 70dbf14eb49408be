"""Where the progress of a run goes: to a supervisor's pipe, to a terminal, or to standard output."""

import atexit
import math
import os
import sys
import time
from collections.abc import Callable, Mapping

from mixkd.contract.messages import (
    CheckpointWritten,
    Done,
    Failed,
    Message,
    Metric,
    Note,
    Phase,
    PhaseStarted,
    Progress,
    Resolved,
    encode,
)
from mixkd.contract.spec import RuntimeSpec
from mixkd.printable import printable

Send = Callable[[Message], None]

_SECONDS_BETWEEN_PROGRESS = 0.5


class Reporter:
    """Turns what happens in a run into messages: not too many of them, and no number that is not finite."""

    def __init__(self, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._begin("prepare", 0)

    def heard_by(self, listener: Send) -> "Reporter":
        """A reporter whose messages `listener` gets too, and first."""

        def send(message: Message) -> None:
            listener(message)
            self._send(message)

        return Reporter(send, self._clock)

    def _begin(self, phase: Phase, steps: int) -> None:
        self._phase, self._steps = phase, steps
        self.goes_on(0)

    def phase(self, phase: Phase, steps: int = 0) -> None:
        """A phase begins."""
        self._begin(phase, steps)
        self._send(PhaseStarted(phase=phase, steps=steps))

    def goes_on(self, step: int) -> None:
        """The steps up to this one were made before: they say nothing of the pace from here on."""
        self._first, self._rows = step, 0
        self._started = self._clock()
        self._sent = -math.inf

    def step(self, step: int, loss: float, rows: int) -> None:
        """A step was made, over `rows` rows. Only some steps become a message; the last one always does."""
        self._rows += rows
        now = self._clock()
        if now - self._sent < _SECONDS_BETWEEN_PROGRESS and step < self._steps:
            return
        self._sent = now
        elapsed = now - self._started
        self._send(
            Progress(
                phase=self._phase,
                step=step,
                steps=self._steps,
                loss=_finite(loss),
                examples_per_second=_finite(self._rows / elapsed) if elapsed > 0 else None,
                seconds_left=_finite(elapsed / (step - self._first) * (self._steps - step)),
            )
        )

    def texts(self, done: int, of: int) -> None:
        """So many of the texts that an augmenter makes are there."""
        now = self._clock()
        if now - self._sent >= _SECONDS_BETWEEN_PROGRESS or done == of:
            self._sent = now
            self._send(Progress(phase=self._phase, step=done, steps=of))

    def metric(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers worth keeping."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        if finite:
            self._send(Metric(phase=self._phase, step=step, values=finite))

    def checkpoint(self, step: int) -> None:
        """The phase can go on from this step."""
        self._send(CheckpointWritten(phase=self._phase, step=step))

    def resolved(self, runtime: RuntimeSpec) -> None:
        """It is chosen how the run is computed."""
        self._send(Resolved(runtime=runtime))

    def note(self, detail: str) -> None:
        """Something happened that a user may want to know, and the run goes on."""
        self._send(Note(detail=detail))

    def done(self) -> None:
        """The student and the report are there."""
        self._send(Done())

    def failed(self, failure: Failed) -> None:
        """The run is over, without a student."""
        self._send(failure)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _validation(values: Mapping[str, float]) -> str:
    """Such of the numbers as are validation scores: `accuracy 0.9512, loss 0.1310`."""
    prefix = "validation_"
    return ", ".join(
        f"{name.removeprefix(prefix).replace('_', ' ')} {value:.4f}"
        for name, value in values.items()
        if name.startswith(prefix)
    )


def to_pipe(descriptor: int) -> Send:
    """Send to a supervisor that reads JSON lines from a pipe.

    If nobody reads any more, there is nobody to train for: the process ends (`SystemExit`).
    """
    os.set_inheritable(descriptor, False)

    def send(message: Message) -> None:
        line = memoryview(encode(message))
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        except BrokenPipeError:
            print("the supervisor is gone: nobody reads the pipe", file=sys.stderr)  # noqa: T201 - the log
            raise SystemExit(1) from None

    return send


def to_stdout() -> Send:
    """Send as JSON lines to standard output."""

    def send(message: Message) -> None:
        sys.stdout.buffer.write(encode(message))
        sys.stdout.buffer.flush()

    return send


def to_terminal() -> Send:
    """Show a progress bar for each phase, the scores of each evaluation, and notes."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    atexit.register(bars.stop)  # an interrupted run must not leave the terminal without its cursor
    task: TaskID | None = None

    def complete() -> None:
        if task is not None:
            steps = bars.tasks[task].total or 1
            bars.update(task, total=steps, completed=steps)

    def send(message: Message) -> None:
        nonlocal task
        match message:
            case PhaseStarted():
                complete()
                bars.start()
                task = bars.add_task(message.phase, total=message.steps or None, numbers="")
            case Progress() if task is not None:
                rate = f"{message.examples_per_second or 0:.0f} rows/s"
                numbers = f"loss {message.loss:.3f}  {rate}" if message.loss is not None else rate
                bars.update(task, completed=message.step, numbers=numbers)
            case Metric() if scores := _validation(message.values):
                bars.console.print(f"{message.phase}: step {message.step}, validation {scores}")
            case Resolved():
                computed = message.runtime
                bars.console.print(
                    f"computed in {computed.precision}, attention {computed.attention}, "
                    f"{computed.threads} threads"
                )
            case Note():
                bars.console.print(f"note: {printable(message.detail)}", markup=False, style="yellow")
            case Done():
                complete()
                bars.stop()
            case Failed():
                bars.stop()
                remedy = f" ({message.remedy})" if message.remedy else ""
                bars.console.print(
                    printable(f"{message.cause}: {message.detail}{remedy}"), markup=False, style="red"
                )

    return send
