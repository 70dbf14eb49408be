"""A job's progress on a terminal: phase, bar, step of steps, loss, examples a second, time left."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from mixkd_client._types import Event, Progress

QUIET_INTERVAL = 10.0  # seconds between lines where there is no terminal to redraw


class JobProgress:
    """Shows what `client.jobs.wait(…, on_update=…)` reports; a line per phase stays on the screen.

    Example:
        >>> with JobProgress() as show:
        ...     client.jobs.wait(job.id, on_update=show)
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bars = Bars(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
        )
        self._task: TaskID | None = None
        self._phase: str | None = None
        self._printed = 0.0

    def __call__(self, update: Event | Progress) -> None:
        """Take one event or snapshot."""
        if isinstance(update, Progress):
            self._show(update)
        elif update.type == "phase" and isinstance(phase := update.data.get("phase"), str):
            self._show(Progress(phase=phase))
        elif update.type != "phase":
            self._settle()
            self.console.print(sentence(update))

    def _show(self, now: Progress) -> None:
        new = now.phase != self._phase
        if new:
            self._settle()
            self._phase = now.phase
        if not self.console.is_terminal:
            if new or time.monotonic() - self._printed > QUIET_INTERVAL:
                self._printed = time.monotonic()
                self.console.print(f"{now.phase:<9} {numbers(now)}".rstrip(), highlight=False)
            return
        if self._task is None:
            self._task = self._bars.add_task(now.phase, total=None, numbers="")
        self._bars.update(self._task, total=now.steps or None, completed=now.step, numbers=numbers(now))

    def _settle(self) -> None:
        """The present phase is over: its bar is full, and the next one gets a line of its own."""
        if self._task is not None:
            total = self._bars.tasks[self._task].total or 1
            self._bars.update(self._task, total=total, completed=total)
        self._task = self._phase = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()


def numbers(now: Progress) -> str:
    """`120/804  loss 0.412  352 examples/s  0:31 left`; what is unknown is left out."""
    parts = []
    if now.steps:
        parts.append(f"{now.step}/{now.steps}")
    if now.loss is not None:
        parts.append(f"loss {now.loss:.3f}")
    if now.examples_per_second is not None:
        parts.append(f"{now.examples_per_second:.0f} examples/s")
    if now.seconds_left is not None:
        parts.append(f"{clock(now.seconds_left)} left")
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def sentence(event: Event) -> str:
    """An event in one line, with what its data says."""
    said = ", ".join(f"{key} {value}" for key, value in event.data.items() if value is not None)
    line = f"[dim]{event.at:%H:%M:%S}[/dim]  {event.type.replace('_', ' ')}"
    return f"{line}  [dim]{escape(said)}[/dim]" if said else line
